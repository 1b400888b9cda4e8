// What a program does with JDBC. The environment says where the server is.

import java.sql.*;
import java.util.Objects;
import org.postgresql.util.PGobject;

public class Jdbc {
	static final String SLEEP = "SELECT pg_sleep(3600)";

	static void check(Object is, Object wanted) {
		if (!Objects.equals(is, wanted))
			throw new AssertionError(is + " in place of " + wanted);
	}

	static Connection connect(String options) throws SQLException {
		return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT")
			+ "/" + System.getenv("PGDATABASE") + options, System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
	}

	static PreparedStatement prepare(Connection connection, String query, Object... parameters) throws SQLException {
		PreparedStatement statement = connection.prepareStatement(query);

		for (int i = 0; i < parameters.length; i++)
			statement.setObject(i + 1, parameters[i]);
		return statement;
	}

	// The only value of the only row
	static Object only(Connection connection, String query, Object... parameters) throws SQLException {
		try (PreparedStatement statement = prepare(connection, query, parameters); ResultSet rows = statement.executeQuery()) {
			check(rows.next(), true);
			Object value = rows.getObject(1);
			check(rows.next(), false);
			return value;
		}
	}

	static void fails(String sqlstate, Connection connection, String query, Object... parameters) {
		try {
			only(connection, query, parameters);
		} catch (SQLException error) {
			check(error.getSQLState() + " " + error.getMessage(), sqlstate + " " + error.getMessage());
			return;
		}
		throw new AssertionError(query + " does not fail");
	}

	static void waitForSleep(Connection connection, long running) throws SQLException {
		while (!only(connection, "SELECT count(*) FROM pg_background_workers WHERE query = ? AND state = 'running'", SLEEP).equals(running));
	}

	public static void main(String[] arguments) throws Exception {
		Connection connection = connect(""), other = connect(""), untyped = connect("?stringtype=unspecified");
		Object handle;

		connection.createStatement().execute("CREATE TABLE jdbc (who text, n int)");

		// launch, result: the handle is an object that can be given back
		handle = only(connection, "SELECT pg_background_launch(?, label => ?)", "SELECT 1, NULL::text UNION ALL SELECT 2, 'two'", "jdbc");
		check(((PGobject) handle).getType(), "pg_background_handle");
		try (PreparedStatement statement = prepare(connection, "SELECT * FROM pg_background_result(?) AS (n int, name text)", handle);
			ResultSet rows = statement.executeQuery()) {
			check(rows.next(), true);
			check(rows.getInt(1), 1);
			check(rows.getString(2), null);
			check(rows.next(), true);
			check(rows.getInt(1), 2);
			check(rows.getString(2), "two");
			check(rows.next(), false);
		}

		// or a string, to be told what it is
		handle = only(connection, "SELECT pg_background_launch(?)::text", "SELECT 1 AS id, ARRAY[1, 2] AS parts");
		check(only(connection, "SELECT pg_background_wait(?::pg_background_handle)", handle), true);

		// jsonb
		check(((PGobject) only(connection, "SELECT pg_background_result_jsonb(?::pg_background_handle)", handle)).getValue(),
			"{\"id\": 1, \"parts\": [1, 2]}");

		// exec: values have types. A NULL by setObject has none: setNull says which.
		check(only(connection, "SELECT pg_background_exec(?, ?, ?)", "INSERT INTO jdbc VALUES ($1, $2)", "Ada", 1), 1L);
		fails("42804", connection, "SELECT pg_background_exec(?, ?, ?)", "INSERT INTO jdbc VALUES ($1, $2)", "Ada", "1");
		fails("42P18", connection, "SELECT pg_background_exec(?, ?, ?)", "INSERT INTO jdbc VALUES ($1, $2)", null, 2);
		try (PreparedStatement statement = prepare(connection, "SELECT pg_background_exec(?, ?, ?)", "INSERT INTO jdbc VALUES ($1, $2)")) {
			statement.setNull(2, Types.VARCHAR);
			statement.setInt(3, 2);
			check(statement.execute(), true);
		}
		// With stringtype=unspecified strings have none, and are text.
		check(only(untyped, "SELECT pg_background_exec(?, ?, ?)", "INSERT INTO jdbc VALUES ($1, $2::int)", "Grace", "3"), 1L);
		fails("42P18", untyped, "SELECT pg_background_exec(?, ?, ?)", "INSERT INTO jdbc VALUES ($1, $2)", "Grace", 3);
		check(only(connection, "SELECT string_agg(concat_ws(' ', n, who), ', ' ORDER BY n) FROM jdbc"), "1 Ada, 2, 3 Grace");

		// So often that the driver prepares it
		try (PreparedStatement statement = prepare(connection, "SELECT * FROM pg_background_query(?, ?) AS (n int)", "SELECT $1")) {
			for (int n = 0; n < 10; n++) {
				statement.setInt(2, n);
				try (ResultSet rows = statement.executeQuery()) {
					check(rows.next(), true);
					check(rows.getInt(1), n);
				}
			}
		}

		// Rows by a cursor, some at a time
		connection.setAutoCommit(false);
		try (PreparedStatement statement = prepare(connection, "SELECT * FROM pg_background_result(pg_background_launch(?)) AS (n int)",
			"SELECT generate_series(1, 1000)")) {
			int n = 0;

			statement.setFetchSize(10);
			try (ResultSet rows = statement.executeQuery()) {
				while (rows.next())
					check(rows.getInt(1), ++n);
			}
			check(n, 1000);
		}
		connection.commit();
		connection.setAutoCommit(true);

		// A job's error is the caller's.
		fails("22012", connection, "SELECT pg_background_exec(?)", "SELECT 1 / 0");

		// cancel, of who waits for a job
		try (PreparedStatement statement = prepare(connection, "SELECT pg_background_exec(?)", SLEEP)) {
			Thread thread = new Thread(() -> {
				try {
					waitForSleep(other, 1);
					statement.cancel();
				} catch (SQLException error) {
					throw new RuntimeException(error);
				}
			});
			String sqlstate = null;

			thread.start();
			try {
				statement.execute();
			} catch (SQLException error) {
				sqlstate = error.getSQLState();
			}
			check(sqlstate, "57014");
			thread.join();
		}
		waitForSleep(other, 0);

		// and of a job
		handle = only(connection, "SELECT pg_background_launch(?)", SLEEP);
		waitForSleep(other, 1);
		only(connection, "SELECT pg_background_cancel(?, 60000)", handle);
		check(only(connection, "SELECT sqlstate FROM pg_background_outcome(?)", handle), "57014");
		waitForSleep(other, 0);

		System.out.println("JDBC " + org.postgresql.util.DriverInfo.DRIVER_VERSION + ", Java " + System.getProperty("java.version"));
	}
}
