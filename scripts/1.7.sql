@update
@types
        ['pg_background_handle', 'pid integer, cookie bigint',
         'names a job of this session: the PID of its worker and a cookie']
@functions
        -- v1: a job's handle is the PID of its worker
        ['launch', 'sql text, queue_size integer DEFAULT 65536', 'integer', 'STRICT',
         'run SQL in a background worker; returns its PID'],
        ['result', 'pid integer', 'SETOF record', 'STRICT',
         'wait for a job and return its rows, once'],
        ['detach', 'pid integer', 'void', 'STRICT',
         'stop tracking a job, which goes on'],

        -- v2: a job's handle is a PID and a cookie, so that a PID used again is no danger
        ['launch_v2', 'sql text, queue_size integer DEFAULT 65536', 'pg_background_handle', 'STRICT',
         'run SQL in a background worker; returns a handle'],
        ['submit_v2', 'sql text, queue_size integer DEFAULT 65536', 'pg_background_handle', 'STRICT',
         'run SQL in a background worker whose result is not wanted; returns a handle'],
        ['result_v2', 'pid integer, cookie bigint', 'SETOF record', 'STRICT',
         'wait for a job and return its rows, once'],
        ['detach_v2', 'pid integer, cookie bigint', 'void', 'STRICT',
         'stop tracking a job, which goes on'],
        ['cancel_v2', 'pid integer, cookie bigint', 'void', 'STRICT',
         'cancel a job'],
        ['cancel_v2_grace', 'pid integer, cookie bigint, grace_ms integer', 'void', 'STRICT',
         'cancel a job, and terminate its worker if that has not ended it after some milliseconds'],
        ['wait_v2', 'pid integer, cookie bigint', 'void', 'STRICT',
         'wait until a job has ended'],
        ['wait_v2_timeout', 'pid integer, cookie bigint, timeout_ms integer', 'boolean', 'STRICT',
         'wait until a job has ended, or for some milliseconds; true when it has ended'],
        ['list_v2', '', 'SETOF record', '',
         'the jobs of this session']
@end
@helpers
@role
@privileges
@update_privileges
