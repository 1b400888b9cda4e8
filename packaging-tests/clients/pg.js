// What a program does with node's pg. The environment says where the server is.

const assert = require('assert');
const { Client } = require('pg');

const sleep = 'SELECT pg_sleep(3600)';

// The only value of the only row
async function only(client, query, ...parameters) {
	const { rows } = await client.query({ text: query, values: parameters, rowMode: 'array' });
	assert.equal(rows.length, 1);
	return rows[0][0];
}

async function waitForSleep(client, running) {
	while (await only(client, "SELECT count(*)::int FROM pg_background_workers WHERE query = $1 AND state = 'running'", sleep) !== running);
}

async function main() {
	const client = new Client();
	const other = new Client();
	await client.connect();
	await other.connect();
	await client.query('CREATE TABLE node (who text, n int)');

	// launch, result: the handle is a string, to be told what it is
	let handle = await only(client, 'SELECT pg_background_launch($1, label => $2)', "SELECT 1, NULL::text UNION ALL SELECT 2, 'two'", 'node');
	assert.equal(typeof handle, 'string');
	let { rows } = await client.query('SELECT * FROM pg_background_result($1::pg_background_handle) AS (n int, name text)', [handle]);
	assert.deepEqual(rows, [{ n: 1, name: null }, { n: 2, name: 'two' }]);

	// or two values: the cookie is larger than a number can be, and so a string
	({ rows: [handle] } = await client.query('SELECT * FROM pg_background_launch($1)', ['SELECT 1 AS id, ARRAY[1, 2] AS parts']));
	assert.equal(typeof handle.cookie, 'string');
	assert.equal(await only(client, 'SELECT pg_background_wait($1::int4, $2::int8)', handle.pid, handle.cookie), true);

	// jsonb
	assert.deepEqual(await only(client, 'SELECT pg_background_result_jsonb($1, $2)', handle.pid, handle.cookie), { id: 1, parts: [1, 2] });

	// exec: nothing has a type, and so all is text, to be cast by the job
	const insert = 'INSERT INTO node VALUES ($1, $2::int)';
	assert.equal(await only(client, 'SELECT pg_background_exec($1, $2, $3)', insert, 'Ada', 1), '1');
	assert.equal(await only(client, 'SELECT pg_background_exec($1, $2, $3)', insert, null, 2), '1');
	await assert.rejects(only(client, 'SELECT pg_background_exec($1, $2, $3)', 'INSERT INTO node VALUES ($1, $2)', 'Grace', 3), { code: '42804' });
	// as it is where there is a cast in the call
	assert.equal(await only(client, 'SELECT pg_background_exec($1, $2::text, $3::int)', 'INSERT INTO node VALUES ($1, $2)', 'Grace', 3), '1');
	({ rows } = await client.query('SELECT * FROM node ORDER BY n'));
	assert.deepEqual(rows, [{ who: 'Ada', n: 1 }, { who: null, n: 2 }, { who: 'Grace', n: 3 }]);

	// An object goes as JSON
	assert.deepEqual(await only(client, 'SELECT * FROM pg_background_query($1, $2) AS (j jsonb)', 'SELECT $1::jsonb', { a: [1] }), { a: [1] });

	// What is prepared
	for (let n = 0; n < 10; n++) {
		({ rows } = await client.query({ name: 'query', text: 'SELECT * FROM pg_background_query($1, $2) AS (n int)', values: ['SELECT $1::int', n] }));
		assert.deepEqual(rows, [{ n }]);
	}

	// A job's error is the caller's.
	await assert.rejects(only(client, 'SELECT pg_background_exec($1)', 'SELECT 1 / 0'), { code: '22012' });

	// cancel, of who waits for a job
	const waits = assert.rejects(only(client, 'SELECT pg_background_exec($1)', sleep), { code: '57014' });
	await waitForSleep(other, 1);
	await other.query('SELECT pg_cancel_backend($1)', [client.processID]);
	await waits;
	await waitForSleep(other, 0);

	// and of a job
	({ rows: [handle] } = await client.query('SELECT * FROM pg_background_launch($1)', [sleep]));
	await waitForSleep(other, 1);
	await client.query('SELECT pg_background_cancel($1, $2, 60000)', [handle.pid, handle.cookie]);
	assert.equal(await only(client, 'SELECT sqlstate FROM pg_background_outcome($1, $2)', handle.pid, handle.cookie), '57014');
	await waitForSleep(other, 0);

	await client.end();
	await other.end();
	console.log('pg', require('pg/package.json').version, 'node', process.version);
}

main().catch(error => {
	console.error(error);
	process.exit(1);
});
