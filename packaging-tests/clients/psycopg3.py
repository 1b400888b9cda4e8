"""What a program does with psycopg 3. The environment says where the server is."""

import threading

import psycopg
from psycopg.types.composite import CompositeInfo, register_composite

SLEEP = "SELECT pg_sleep(3600)"


def only(connection, query, *parameters):
    """The only value of the only row"""
    ((value,),) = connection.execute(query, parameters).fetchall()
    return value


def wait_for_sleep(connection, running):
    while only(connection, "SELECT count(*) FROM pg_background_workers WHERE query = %s AND state = 'running'", SLEEP) != running:
        pass


def fails(sqlstate, connection, query, *parameters):
    try:
        connection.execute(query, parameters)
    except psycopg.Error as error:
        assert error.sqlstate == sqlstate, error
    else:
        raise AssertionError(f"{query} does not fail")


connection = psycopg.connect(autocommit=True)
other = psycopg.connect(autocommit=True)
connection.execute("CREATE TABLE psycopg (who text, n int)")

# launch, result: the handle is a string, to be told what it is
handle = only(connection, "SELECT pg_background_launch(%s, label => %s)", "SELECT 1, NULL::text UNION ALL SELECT 2, 'two'", "psycopg")
assert isinstance(handle, str)
rows = connection.execute("SELECT * FROM pg_background_result(%s::pg_background_handle) AS (n int, name text)", [handle])
assert rows.fetchall() == [(1, None), (2, "two")]

# or a tuple
register_composite(CompositeInfo.fetch(connection, "pg_background_handle"), connection)
handle = only(connection, "SELECT pg_background_launch(%s)", "SELECT 1 AS id, ARRAY[1, 2] AS parts")
assert handle.pid > 0 and handle.cookie != 0
assert only(connection, "SELECT pg_background_wait(%s)", handle) is True

# jsonb
assert only(connection, "SELECT pg_background_result_jsonb(%s)", handle) == {"id": 1, "parts": [1, 2]}

# exec: strings have no type, and are text; numbers have, and then strings have to be cast
insert = "INSERT INTO psycopg VALUES ($1, $2::int)"
assert only(connection, "SELECT pg_background_exec(%s, %s, %s)", insert, "Ada", "1") == 1
assert only(connection, "SELECT pg_background_exec(%s, %s, %s)", insert, None, "2") == 1
fails("42P18", connection, "SELECT pg_background_exec(%s, %s, %s)", insert, "Grace", 3)
assert only(connection, "SELECT pg_background_exec(%s, %s::text, %s)", insert, "Grace", 3) == 1
rows = connection.execute("SELECT * FROM psycopg ORDER BY n")
assert rows.fetchall() == [("Ada", 1), (None, 2), ("Grace", 3)]

# So often that they are prepared
for n in range(10):
    assert only(connection, "SELECT * FROM pg_background_query(%s, %s) AS (n int)", "SELECT $1::int", str(n)) == n

# What a transaction has not committed
with connection.transaction():
    only(connection, "SELECT pg_background_submit_on_commit(%s)", "DELETE FROM psycopg WHERE n = 1")
    connection.execute("INSERT INTO psycopg VALUES ('Edgar', 4)")
    assert only(connection, "SELECT pg_background_exec(%s)", "SELECT FROM psycopg") == 3
while only(connection, "SELECT count(*) FROM psycopg") != 3:
    pass

# A job's error is the caller's.
fails("22012", connection, "SELECT pg_background_exec(%s)", "SELECT 1 / 0")


# cancel, of who waits for a job
def cancel():
    wait_for_sleep(other, 1)
    connection.cancel()


thread = threading.Thread(target=cancel)
thread.start()
fails("57014", connection, "SELECT pg_background_exec(%s)", SLEEP)
thread.join()
wait_for_sleep(other, 0)

# and of a job
handle = only(connection, "SELECT pg_background_launch(%s)", SLEEP)
wait_for_sleep(other, 1)
connection.execute("SELECT pg_background_cancel(%s, 60000)", [handle])
assert only(connection, "SELECT sqlstate FROM pg_background_outcome(%s)", handle) == "57014"
wait_for_sleep(other, 0)

print("psycopg", psycopg.__version__)
