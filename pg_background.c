/*-------------------------------------------------------------------------
 *
 * pg_background.c
 *		Run SQL in background workers of the server.
 *
 * A session (the launcher) hands an SQL string to a background worker, goes
 * on with its own work, and later waits for the job, reads its rows, cancels
 * it or forgets it.  The job is a transaction of its own.
 *
 * There are two things here, which must not be mixed up:
 *
 *	 - A Job is what a handle names: one SQL string, its outcome, its rows.
 *	   It is known by its cookie.
 *	 - A Worker is a process with a dynamic shared memory segment that holds
 *	   two shm_mq queues.  It is known by its PID.
 *
 *	   session (launcher)                               background worker
 *	   ------------------                               -----------------
 *	   jobs: cookie -> Job                              main loop:
 *	   workers: each with one segment                     take a request
 *		 request queue ---- sql, settings, user ------>   run it
 *		 result queue  <--- rows, notices, tag, error --  say done
 *
 * A job has a worker while it runs; a worker has one job at a time, and may
 * have many in its life: starting a process and connecting it takes
 * milliseconds, a message to one that is there takes microseconds.  So a
 * worker that has said done resets its session and waits for a while for the
 * next request of the same launcher ("warm").
 *
 * Everything that a worker has to say goes through its result queue, in
 * order, as a stream of frames (see FrameKind).  All that a session knows
 * about a job it has learnt from that stream, in one function, pump_worker().
 * Every SQL function calls it, directly or through wait_for_job(), and what
 * nobody has read yet is kept as it came, in the job's own spool, which is
 * session-long and spills to disk.  Hence waiting never deadlocks on a full
 * queue, and a job's outcome outlives the transaction that launched it.  What
 * cannot be kept is an error of that job, and of nobody else.
 *
 * Code of users runs while results are read and may call any function here: see
 * pin_job().  What a catalog says of our functions may be another version's:
 * see check_call().
 *
 * The launcher sleeps on its latch, which the queue and the postmaster
 * (bgw_notify_pid) set.  Only before it sleeps, either side looks at its queue
 * for some microseconds, see look_again(); and only for slots that other
 * sessions free does it look now and then, since nobody tells it of them.
 *
 * The file reads from the top: what depends on the server's version; what the
 * two processes share; the launcher's side (workers, the stream, settings,
 * waiting, jobs); the SQL functions, which are a few lines each over that;
 * and the worker's side (the stream, settings, running a job, the main loop).
 *
 * Copyright (c) 2026, pg_background contributors
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifndef WIN32
#include <dlfcn.h>
#endif
#include <limits.h>
#if defined(__linux__) || defined(__FreeBSD__)
#include <link.h>
#endif
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "jit/jit.h"
#include "lib/ilist.h"
#include "libpq/pqformat.h"
#include "libpq/pqmq.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/analyze.h"
#include "parser/parse_node.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/logicalworker.h"
#include "replication/origin.h"
#include "replication/slot.h"
#include "storage/dsm.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "storage/shmem.h"
#include "storage/shm_mq.h"
#include "storage/sinval.h"
#include "storage/spin.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/portal.h"
#include "utils/ps_status.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"
#include "utils/wait_event.h"

/*
 * PQcommMethods is declared in a header that also pulls in the headers of
 * OpenSSL and GSSAPI, for the members of struct Port, which is not used here.
 * Nobody should have to install those to build this file.
 */
#undef USE_OPENSSL
#undef ENABLE_GSS
#include "libpq/libpq.h"

PG_MODULE_MAGIC;

/* ----------------------------------------------------------------
 *		What depends on the server's version
 *
 * Each difference has one name here; nothing below tests PG_VERSION_NUM.
 * ----------------------------------------------------------------
 */

#define SERVER_MAJOR		(PG_VERSION_NUM / 10000)

/*
 * The flag by which a background worker can connect as a role that has no LOGIN
 * attribute.  Where there is none, see "hold_user" in Request.
 */
#if PG_VERSION_NUM >= 170000
#define BYPASS_LOGIN_CHECK	BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define BYPASS_LOGIN_CHECK	0
#endif

/* What the server numbers its caches of catalogs by */
#if PG_VERSION_NUM >= 190000
typedef SysCacheIdentifier CatalogCache;
#else
typedef int CatalogCache;
#endif

/*
 * What pg_stat_activity shows while we sleep: from 17 on, a name of our own.
 * *known keeps what the server knows the name by.
 */
static uint32
wait_event(uint32 *known, const char *name)
{
	if (*known == 0)
#if PG_VERSION_NUM >= 170000
		*known = WaitEventExtensionNew(name);
#else
		*known = PG_WAIT_EXTENSION;
#endif
	return *known;
}

/* Send a message without waiting; flush says to let the receiver know now. */
static shm_mq_result
send_nowait(shm_mq_handle *queue, shm_mq_iovec *iov, int iovcnt, bool flush)
{
#if PG_VERSION_NUM >= 150000
	return shm_mq_sendv(queue, iov, iovcnt, true, flush);
#else
	return shm_mq_sendv(queue, iov, iovcnt, true);
#endif
}

static struct config_generic **
all_settings(int *count)
{
#if PG_VERSION_NUM >= 160000
	return get_guc_variables(count);
#else
	*count = GetNumConfigOptions();
	return get_guc_variables();
#endif
}

static double
real_setting(struct config_generic *record)
{
#if PG_VERSION_NUM >= 190000
	return *record->_real.variable;
#else
	return *((struct config_real *) record)->variable;
#endif
}

/* Who has set it; asked for again where that takes a privilege. */
static Oid
setting_role(struct config_generic *record)
{
#if PG_VERSION_NUM >= 150000
	return record->srole;
#else
	return InvalidOid;
#endif
}

/* Returns false where it cannot be set, having said so at this level. */
static bool
set_setting(const char *name, const char *value, GucContext context, Oid role,
			int elevel)
{
#if PG_VERSION_NUM >= 150000
	return set_config_option_ext(name, value, context, PGC_S_SESSION, role,
								 GUC_ACTION_SET, true, elevel, false) != 0;
#else
	return set_config_option(name, value, context, PGC_S_SESSION,
							 GUC_ACTION_SET, true, elevel, false) != 0;
#endif
}

/* A setting of this prefix that is not defined by now is a mistake. */
static void
reserve_prefix(const char *prefix)
{
#if PG_VERSION_NUM >= 150000
	MarkGUCPrefixReserved(prefix);
#else
	EmitWarningsOnPlaceholders(prefix);
#endif
}

/* setup is what gives the parser hooks for parameters, with its argument. */
static List *
analyze_and_rewrite(RawStmt *parsetree, const char *sql,
					ParserSetupHook setup, void *arg)
{
#if PG_VERSION_NUM >= 150000
	return pg_analyze_and_rewrite_withcb(parsetree, sql, setup, arg, NULL);
#else
	return pg_analyze_and_rewrite_params(parsetree, sql, setup, arg, NULL);
#endif
}

/* A number that no other backend has at the same time, below MaxBackends */
static int
my_backend_index(void)
{
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

/* What is run next is not the statement that was run before. */
static void
forget_query_id(void)
{
	pgstat_report_query_id(0, true);
#if PG_VERSION_NUM >= 180000
	pgstat_report_plan_id(0, true);
#endif
}

static void
run_portal(Portal portal, DestReceiver *receiver, QueryCompletion *qc)
{
#if PG_VERSION_NUM >= 180000
	(void) PortalRun(portal, FETCH_ALL, true, receiver, receiver, qc);
#else
	(void) PortalRun(portal, FETCH_ALL, true, true, receiver, receiver, qc);
#endif
}

static MinimalTuple
form_minimal_tuple(TupleDesc desc, Datum *values, bool *isnull)
{
#if PG_VERSION_NUM >= 180000
	return heap_form_minimal_tuple(desc, values, isnull, 0);
#else
	return heap_form_minimal_tuple(desc, values, isnull);
#endif
}

/* Does this session say that what it commits comes from elsewhere? */
static bool
has_replication_origin(void)
{
#if PG_VERSION_NUM >= 190000
	return replorigin_xact_state.origin != InvalidReplOriginId;
#else
	return replorigin_session_origin != InvalidRepOriginId;
#endif
}

static void
drop_temporary_slots(void)
{
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCleanup(false);
#else
	ReplicationSlotCleanup();
#endif
}

/* Make a descriptor usable whose attributes were copied in as bytes. */
static void
finish_tuple_desc(TupleDesc desc)
{
#if PG_VERSION_NUM >= 180000
	for (int i = 0; i < desc->natts; i++)
		populate_compact_attribute(desc, i);
#endif
#if PG_VERSION_NUM >= 190000
	TupleDescFinalize(desc);
#endif
}

/* The server stops a query early where transaction_timeout is shorter. */
static bool
statement_timeout_applies(void)
{
#if PG_VERSION_NUM >= 170000
	return StatementTimeout > 0 &&
		(StatementTimeout < TransactionTimeout || TransactionTimeout == 0);
#else
	return StatementTimeout > 0;
#endif
}

/*
 * How often has a library been loaded into this process?  Where the system does
 * not count that, another number each time.
 */
#if defined(__linux__) || defined(__FreeBSD__)
static int
read_load_count(struct dl_phdr_info *info, size_t size, void *count)
{
	*(uint64 *) count = info->dlpi_adds;
	return 1;
}
#endif

static uint64
count_loads(void)
{
	static uint64 count = 0;

#if defined(__linux__) || defined(__FreeBSD__)
	(void) dl_iterate_phdr(read_load_count, &count);
#else
	count++;
#endif
	return count;
}

/* ----------------------------------------------------------------
 *		What launcher and worker share
 * ----------------------------------------------------------------
 */

#define LIBRARY_NAME		"pg_background"
#define WORKER_NAME			"pg_background"

/* Limits of the SQL interface; sizes in bytes, times in milliseconds. */
#define PREVIEW_SIZE		120
#define LAST_ERROR_SIZE		512
#define LABEL_SIZE			64
#define PROGRESS_SIZE		256
#define MAX_TIMEOUT			3600000
#define MIN_QUEUE_SIZE		4096
#define MAX_QUEUE_SIZE		(512 * 1024 * 1024)

/* A request is one message, and what goes along with this is settings. */
#define MAX_JOB_SIZE		(MaxAllocSize - 64 * 1024 * 1024)

/* How many submitted jobs that have ended are kept for nobody */
#define MAX_UNUSED_JOBS		1000

/* A spool's file is written and read in pieces of this size. */
#define SPOOL_BLOCK			65536

/* What is shown of a job that holds a user, see Request. */
#define HELD_JOB_TEXT		"<job of a security-definer function>"

/* Small messages are gathered until they fill this many bytes. */
#define GATHER_SIZE			8192

/* How long a worker waits where enough others do, unless run_all needs it */
#define SPARE_IDLE_TIMEOUT	10

/* How long a launch waits for workers to leave */
#define DISMISS_GRACE		5000

/* How long a commit waits at least for the workers of its jobs */
#define COMMIT_PATIENCE		10000

/* The request queue holds at least this much, or the first request. */
#define MIN_REQUEST_SIZE	16384

/*
 * The first bytes of every segment say which build of this library made it.
 * A session that was open while the library was replaced on disk starts
 * workers that load the new one; LAYOUT changes with every change of what
 * follows SegmentHead, so that such a worker can tell.  SegmentHead never
 * changes, so that it can also say so.
 */
#define MAGIC_FAMILY		UINT64CONST(0x70676267)
#define LAYOUT				4
#define SEGMENT_MAGIC \
	((MAGIC_FAMILY << 32) | (LAYOUT << 16) | SERVER_MAJOR)

/*
 * What a worker could not say through the queue: it is not there yet, or it
 * is full and the process must end.  sqlerrcode is 0 where there is nothing.
 */
typedef struct LastWords
{
	int			sqlerrcode;
	char		message[LAST_ERROR_SIZE];
	char		hint[LAST_ERROR_SIZE];
} LastWords;

/* The part of a segment's head that every build of this library knows. */
typedef struct SegmentHead
{
	uint64		magic;
	pid_t		pid;			/* set by the worker */
	/* Does the segment's pin still hold it?  See unpin_segment(). */
	pg_atomic_uint32 pinned;
	LastWords	last_words;
} SegmentHead;

/*
 * What other sessions may see of a worker's job, and what the job says of its
 * progress; percent is -1 before it has said anything.
 */
typedef struct JobInfo
{
	Oid			launcher_user;
	Oid			user_id;
	Oid			owner;			/* who may see what the job is */
	TimestampTz launched_at;
	char		label[LABEL_SIZE];
	char		sql_preview[PREVIEW_SIZE + 1];
	int			progress_pct;
	char		progress_msg[PROGRESS_SIZE];
} JobInfo;

/*
 * The head of a segment; the request queue and the result queue follow.
 * Beside the queues there is only what must be readable or settable while the
 * other side is not reading its queue.
 */
typedef struct WorkerShared
{
	SegmentHead head;

	/* Set by the launcher before the worker starts */
	Oid			database;
	Oid			login_user;		/* who the worker connects as */
	uint32		connection_flags;	/* BYPASS_LOGIN_CHECK, or 0 */
	Size		request_queue;	/* offsets from the segment's start */
	Size		result_queue;
	pid_t		launcher_pid;
	dsm_handle	launcher_segment;	/* where the launcher is a worker itself */

	/* Is the launcher asleep until this worker's job has ended? */
	pg_atomic_uint32 launcher_waits;
	/* Set by the launcher to cancel a job that has not begun */
	pg_atomic_uint32 canceled;
	/* Set by the launcher when it no longer wants rows or notices */
	pg_atomic_uint32 discard;	/* DROP_NEW, then DROP_ALL */
	pg_atomic_uint32 state;		/* a WorkerState */
	pg_atomic_uint64 idle_since;	/* when it became ready, a TimestampTz */

	slock_t		mutex;			/* over what follows */
	JobInfo		info;
} WorkerShared;

/* Say nothing more; do not even complete the message that is half sent. */
#define DROP_NEW		1
#define DROP_ALL		2

/*
 * What a worker is at.  Its job has ended once what the job did is committed,
 * or rolled back and the error is among what is still to be said: nothing that
 * happens to the process from then on is an error of the job.
 *
 * It is ready when it has said done, all of it; whichever of worker and launcher
 * is the first to know that says so.  When it has waited long enough for a
 * request, it may leave only if it can go from ready to leaving; and its
 * launcher may send it one only if it can go from ready to claimed.  A session
 * that finds no slot free may also make it leave, see dismiss_idle_worker().
 */
typedef enum WorkerState
{
	WORKER_STARTING,
	WORKER_RUNNING,
	WORKER_ENDED,
	WORKER_READY,
	WORKER_CLAIMED,
	WORKER_LEAVING
} WorkerState;

/*
 * One request, a message of the request queue.  The settings, the SQL string
 * and its parameters follow: of each, the type's OID and what datumSerialize()
 * makes of it.
 */
typedef struct Request
{
	Oid			session_user;
	Oid			role;			/* InvalidOid = none */

	/*
	 * Where the launcher is inside a SECURITY DEFINER function whose owner a
	 * worker cannot connect as: that owner, to be held as the current user
	 * with SECURITY_LOCAL_USERID_CHANGE over every transaction of the job.
	 *
	 * Such a job has a worker of its own.  It is connected as the caller, who
	 * must find nothing there that the owner left, nor the other way round.
	 */
	Oid			hold_user;

	bool		discard;		/* nobody will read rows or notices */
	int			idle_timeout;	/* how long to wait for another request
								 * afterwards, milliseconds; -1 = not at all */
	Size		settings_size;	/* 0 = what was sent before */
	Size		sql_size;		/* with its terminator */
	Size		params_size;
	int			nparams;
} Request;

/*
 * What a worker says.  A message of the result queue is a sequence of frames,
 * each a FrameHeader and its data, MAXALIGNed so that a tuple can be used
 * where it lies.
 */
typedef enum FrameKind
{
	FRAME_ROW_DESCRIPTION = 'T',	/* pg_attribute structs, then of each column
									 * the version of its type, uint32 */
	FRAME_ROW = 'D',			/* a MinimalTuple */
	FRAME_ROW_PART = 'd',		/* a part of a large one, another follows */
	FRAME_NOTICE = 'N',			/* protocol message body, in the database's
								 * encoding */
	FRAME_ERROR = 'E',			/* the same */
	FRAME_COMMAND = 'C',		/* CommandFrame */
	FRAME_WARNINGS = 'W',		/* WarningsFrame, before "done" */
	FRAME_DONE = 'Z'			/* DoneFrame */
} FrameKind;

typedef struct FrameHeader
{
	uint32		size;			/* of the data, without padding */
	uint32		kind;
} FrameHeader;

#define FRAME_HEADER_SIZE	MAXALIGN(sizeof(FrameHeader))

/* What a frame with so many bytes of data takes */
static Size
frame_space(Size size)
{
	return FRAME_HEADER_SIZE + MAXALIGN(size);
}

typedef struct CommandFrame
{
	char		tag[COMPLETION_TAG_BUFSIZE];
	uint64		row_count;
} CommandFrame;

/* Warnings that the job has raised; last is clipped, and ends in a NUL. */
typedef struct WarningsFrame
{
	int64		count;
	char		last[LAST_ERROR_SIZE];
} WarningsFrame;

typedef struct DoneFrame
{
	bool		canceled;		/* by a query cancel, not by a time-out */
	bool		stays;			/* the worker will take another request */
	int64		execution;		/* how long it took, microseconds */
} DoneFrame;

/* How the line begins that tells a job in the server log, see add_job_line() */
#define JOB_LINE_START		"background job of user "

/* Go from one state to another, where nobody else has been faster. */
static bool
change_state(WorkerShared *shared, WorkerState from, WorkerState to)
{
	uint32		expected = from;

	return pg_atomic_compare_exchange_u32(&shared->state, &expected, to);
}

/* The worker's own segment, NULL in any other process */
static WorkerShared *my_shared = NULL;
static dsm_handle my_segment = 0;

PGDLLEXPORT void _PG_init(void);
PGDLLEXPORT void pg_background_worker_main(Datum main_arg);

/*
 * In the server's main shared memory: the handle of the segment of each backend
 * that is a worker, 0 for all others.  It is made when it is needed first, and
 * so small that it fits into what the server leaves for such things; but others
 * may have used that up, such as locks.  Returns NULL then: workers do without,
 * and are not to be found.
 */
static pg_atomic_uint32 *
worker_segments(void)
{
	static pg_atomic_uint32 *segments = NULL;
	MemoryContext oldcontext = CurrentMemoryContext;
	uint32		holdoff;
	uint32		cancel_holdoff;
	bool		found;

	if (segments != NULL)
		return segments;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	holdoff = InterruptHoldoffCount;
	cancel_holdoff = QueryCancelHoldoffCount;
	PG_TRY();
	{
		segments = ShmemInitStruct("pg_background workers",
								   MaxBackends * sizeof(pg_atomic_uint32),
								   &found);
		for (int i = 0; !found && i < MaxBackends; i++)
			pg_atomic_init_u32(&segments[i], 0);
	}
	PG_CATCH();
	{
		/* Throwing an error has ended these. */
		InterruptHoldoffCount = holdoff;
		QueryCancelHoldoffCount = cancel_holdoff;
		MemoryContextSwitchTo(oldcontext);
		FlushErrorState();
	}
	PG_END_TRY();
	LWLockRelease(AddinShmemInitLock);
	return segments;
}

static shmem_startup_hook_type next_shmem_startup_hook = NULL;

/* Where the library is loaded at the server's start, there is still room. */
static void
reserve_worker_segments(void)
{
	if (next_shmem_startup_hook != NULL)
		next_shmem_startup_hook();
	(void) worker_segments();
}

/* ----------------------------------------------------------------
 *		Settings of this extension
 * ----------------------------------------------------------------
 */

static int	max_idle_workers;
static int	idle_timeout;		/* milliseconds */
static int	look_time;			/* microseconds */
static int	max_workers;
static int	default_queue_size; /* bytes */
static int	max_queue_size;		/* bytes */
static int	worker_timeout;		/* milliseconds */
static int	launch_timeout;		/* milliseconds */

static ProcessUtility_hook_type next_utility_hook = NULL;

static void run_utility(PlannedStmt *pstmt, const char *sql, bool keep_tree,
						ProcessUtilityContext context, ParamListInfo params,
						QueryEnvironment *environment, DestReceiver *receiver,
						QueryCompletion *qc);

void
_PG_init(void)
{
	DefineCustomIntVariable("pg_background.max_idle_workers",
							"Sets how many workers of a session may wait for its next job.",
							"0 ends each worker with its job.",
							&max_idle_workers, 2, 0, 1000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.idle_timeout",
							"Sets how long a worker waits for its session's next job.",
							NULL,
							&idle_timeout, 1000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.look_time",
							"Sets for how many microseconds at most a process looks at its queue before it sleeps.",
							"0 turns this off, as having a single processor does.",
							&look_time, 400, 0, 10000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.max_workers",
							"Sets how many jobs of a session may run at once.",
							NULL,
							&max_workers, 16, 1, 1000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.default_queue_size",
							"Sets the size of a job's result queue where the launch gives none.",
							NULL,
							&default_queue_size, 65536, MIN_QUEUE_SIZE, 256 * 1024 * 1024,
							PGC_USERSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.max_queue_size",
							"Sets how large a job's result queue may be at most.",
							"Queues take up shared memory, which is the whole server's.",
							&max_queue_size, 64 * 1024 * 1024, MIN_QUEUE_SIZE, MAX_QUEUE_SIZE,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.worker_timeout",
							"Sets how long a job may take.",
							"0 turns this off.",
							&worker_timeout, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.launch_timeout",
							"Sets how long a launch waits for a free worker.",
							"0 does not wait.",
							&launch_timeout, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	reserve_prefix(LIBRARY_NAME);

	next_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = run_utility;

	if (process_shared_preload_libraries_in_progress)
	{
		next_shmem_startup_hook = shmem_startup_hook;
		shmem_startup_hook = reserve_worker_segments;
	}
}

/*
 * A short look at a queue, before sleeping: waking a sleeping process costs
 * ten times what a small job costs.  Whether it is worth it is told by how long
 * the last waits took, and by whether the last looks were in vain: after each
 * such one, twice as many are left out, since where processors are scarce, to
 * look is what makes the wait long.
 *
 * A worker looks for a quarter of the time only: while its launcher does other
 * things, it would be in the way.
 */
typedef struct LookHistory
{
	int			average;		/* of the waits, microseconds */
	int			leave_out;		/* how many looks to leave out after one in vain */
	int			left;			/* how many of them are still to be left out */
} LookHistory;

typedef struct Look
{
	LookHistory *history;
	int			limit;			/* microseconds */
	instr_time	start;
	bool		begun;
	bool		over;
} Look;

/* Until we know better, it is a process that has to start. */
static LookHistory launcher_looks = {.average = INT_MAX / 8};
static LookHistory worker_looks = {.average = INT_MAX / 8};

/* On a single processor, nothing can happen while we look. */
static bool
many_processors(void)
{
	static long count = 0;

	if (count == 0)
		count = sysconf(_SC_NPROCESSORS_ONLN);
	return count > 1;
}

static int
look_elapsed(Look *look)
{
	instr_time	elapsed;

	INSTR_TIME_SET_CURRENT(elapsed);
	INSTR_TIME_SUBTRACT(elapsed, look->start);
	return (int) Min(INSTR_TIME_GET_MICROSEC(elapsed), INT_MAX);
}

/*
 * What we wait for has not come: is it worth looking again before sleeping?
 *
 * Whoever is to bring it may be on this very processor, so others may run in
 * between.
 */
static bool
look_again(Look *look)
{
	LookHistory *history = look->history;

	if (!look->begun)
	{
		look->begun = true;
		look->over = history->average > look->limit || !many_processors();
		if (!look->over && history->left > 0)
		{
			history->left--;
			look->over = true;
		}
		INSTR_TIME_SET_CURRENT(look->start);
	}
	else if (!look->over)
	{
		(void) sched_yield();
		if (look_elapsed(look) >= look->limit)
		{
			look->over = true;
			history->leave_out = Min(2 * history->leave_out + 1, 63);
			history->left = history->leave_out;
		}
	}
	return !look->over;
}

/*
 * What we have waited for has come.  A long wait counts as one that is just
 * too long, so that some short ones are enough to be looked for again.
 */
static void
look_ended(Look *look)
{
	LookHistory *history = look->history;
	int			most = 2 * look->limit;

	if (!look->begun)
		return;
	history->average = (3 * Min(history->average, most) +
						Min(look_elapsed(look), most)) / 4;
	if (!look->over)
		history->leave_out = 0;
}

/* ----------------------------------------------------------------
 *		The launcher: what a session knows
 * ----------------------------------------------------------------
 */

struct Job;

/*
 * A process, as its launcher knows it.  All of it lives in its context.
 *
 * The handle is palloc'd by RegisterDynamicBackgroundWorker() in the context
 * that is current there, and is the caller's to free: the server keeps no
 * pointer to it.  Hence it lives and dies with the worker's context.
 */
typedef struct Worker
{
	dlist_node	node;			/* in workers, or in leaving_workers */
	MemoryContext context;
	BackgroundWorkerHandle *handle;
	pid_t		pid;
	dsm_segment *segment;		/* NULL once it was let go */
	WorkerShared *shared;
	shm_mq_handle *requests;
	shm_mq_handle *results;
	bool		sent;			/* it was handed a job */
	bool		runs_on;		/* with a job that we know nothing of any more */
	struct Job *job;			/* NULL where it waits for another */

	/* What another job must have in common with the one it started with */
	Oid			login_user;
	uint32		connection_flags;
	int32		queue_size;
	Size		request_room;	/* the largest request that it can be sent */
	bool		stay;			/* one of the max_idle_workers that may wait */
	uint64		login_generation;	/* see count_login_change() */

	/* Which generation of the session's settings it was last sent */
	uint64		settings_generation;

	/* The message that is being taken apart, and how far we are */
	char	   *message;
	Size		message_size;
	Size		message_pos;
} Worker;

/*
 * What a job has said and nobody has read yet: frames, as they came.  They are
 * in memory up to work_mem, and beyond that in a temporary file.
 *
 * A tuplestore will not do.  When the disk is full, or temp_file_limit is
 * reached, it cannot be given up, since closing its file writes what is left;
 * and it knows rows only, while notices can be as many.
 */
typedef struct Spool
{
	char	   *data;			/* the last frames, which are not in the file */
	Size		size;
	Size		room;
	File		file;			/* 0 = none */
	off_t		file_size;
} Spool;

/*
 * A job, as its launcher knows it.  All of it lives in its context, but for
 * the file of its spool.
 *
 * Code of the user can run while a job is in use, and may forget it: whoever
 * holds a pointer to a job over such code, or over a launch, pins it.
 */
typedef struct Job
{
	int64		cookie;			/* hash key */
	dlist_node	node;			/* in jobs, in the order of launch */
	MemoryContext context;
	Worker	   *worker;			/* NULL once the job has ended */
	pid_t		pid;
	Oid			user_id;
	TimestampTz launched_at;
	int32		queue_size;
	char	   *sql;
	char	   *label;			/* or NULL */
	bool		is_v1;			/* its PID is its handle */
	bool		submitted;		/* its result is never read */
	bool		sent;			/* its worker has been handed it */
	bool		cancel_requested;
	bool		forgotten;		/* it has no handle any more */
	bool		delivered;		/* nor has it while its result is delivered */
	bool		being_read;
	bool		consumed;		/* rows went to a reader that was interrupted */
	int			pins;
	bool		unused;			/* it is in unused_jobs */
	dlist_node	unused_node;

	/* What its worker is sent, and whom that connects as */
	Request		request;
	Oid			login_user;
	uint32		connection_flags;
	StringInfoData params;
	StringInfo	settings;		/* of the launch, where it starts later */
	SubTransactionId subxact;	/* whose commit it waits for */

	/* Learnt from the stream */
	bool		canceled;
	uint64		end_number;		/* the order in which jobs ended, from 1 */
	int64		execution;		/* microseconds */
	bool		deadlocked;		/* it was canceled for that */
	int			ncommands;
	char		command_tag[COMPLETION_TAG_BUFSIZE];	/* of the last command */
	int64		row_count;
	int			progress_pct;	/* -1 = it has said nothing */
	char		progress_msg[PROGRESS_SIZE];
	int64		warnings;
	char	   *last_warning;
	TupleDesc	desc;			/* of the last rows, NULL where none came */
	uint32	   *versions;		/* of its columns' types */
	Spool		spool;
	bool		lost;			/* what it says could not be kept */
	int64		notices_raised;
	ErrorData  *error;
} Job;

typedef struct JobEntry
{
	int64		cookie;
	Job		   *job;
} JobEntry;

static MemoryContext launcher_context = NULL;
static HTAB *jobs_by_cookie = NULL;
static dlist_head jobs = DLIST_STATIC_INIT(jobs);
static dlist_head workers = DLIST_STATIC_INIT(workers);

/*
 * Submitted jobs that have ended, and whose handles nobody has used since, in
 * the order in which they ended.
 */
static dlist_head unused_jobs = DLIST_STATIC_INIT(unused_jobs);
static int	nunused_jobs = 0;

/* Jobs that start when the transaction commits; they have no handle. */
static dlist_head pending_jobs = DLIST_STATIC_INIT(pending_jobs);

/* What became of the session's jobs; those that are in no other count run. */
static struct
{
	int64		launched;
	int64		completed;
	int64		failed;
	int64		canceled;
	int64		execution;		/* of the completed ones, microseconds */
}			stats;

/* How long a worker waits where enough others do, in milliseconds */
static int	spare_idle_timeout = SPARE_IDLE_TIMEOUT;

/*
 * Workers that have said all that we will hear of them, but whose processes may
 * still hold a slot.  See reap_workers().
 */
static dlist_head leaving_workers = DLIST_STATIC_INIT(leaving_workers);

/*
 * The session's settings as a worker is sent them, and as they were
 * serialized at that time, see refresh_settings().
 */
static StringInfoData settings;
static StringInfoData settings_serialized;
static uint64 settings_generation = 0;

/* See count_login_change(); and what the server calls our database there. */
static uint64 login_generation = 0;
static uint32 database_hash;

static bool pump_worker(Worker *worker);

static uint32 launch_wait_event = 0;
static uint32 job_wait_event = 0;
static uint32 send_wait_event = 0;
static uint32 request_wait_event = 0;

/*
 * A number that nobody can guess.  They are fetched some at a time, which is
 * much cheaper.
 *
 * Errors: XX000 where there are none to be had.
 */
static int64
strong_random(void)
{
	static int64 numbers[32];
	static int	left = 0;

	if (left == 0)
	{
		if (!pg_strong_random(numbers, sizeof(numbers)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random numbers")));
		left = lengthof(numbers);
	}
	return numbers[--left];
}

/*
 * Copy a text for display, cut to so many bytes, on a character boundary and
 * with "..." at its end where it is longer.
 */
static char *
clip_text(const char *text, int limit)
{
	int			len = strlen(text);

	if (len <= limit)
		return pstrdup(text);
	len = pg_mbcliplen(text, len, limit - 3);
	return psprintf("%.*s...", len, text);
}

/* ----------------------------------------------------------------
 *		The launcher: workers
 * ----------------------------------------------------------------
 */

/*
 * Let go of the pin that holds a segment until its worker has mapped it.
 *
 * dsm_create() gives a segment that lasts as long as somebody maps it.  A
 * session that launches and ends at once would take it away from under the
 * worker that is just starting, so a pin holds it; whichever of worker and
 * launcher is the first to call this removes the pin.
 */
static void
unpin_segment(SegmentHead *head, dsm_handle handle)
{
	if (pg_atomic_exchange_u32(&head->pinned, 0) != 0)
		dsm_unpin_segment(handle);
}

/*
 * Forget the workers whose processes are gone, and with them their handles.
 *
 * The server frees a slot only when the postmaster has seen the process end,
 * some time after its job has ended.
 */
static void
reap_workers(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &leaving_workers)
	{
		Worker	   *worker = dlist_container(Worker, node, iter.cur);
		pid_t		pid;

		if (GetBackgroundWorkerPid(worker->handle, &pid) == BGWH_STOPPED)
		{
			dlist_delete(&worker->node);
			MemoryContextDelete(worker->context);
		}
	}
}

/* Will a slot become free, since a process of ours is about to end? */
static bool
is_worker_leaving(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &leaving_workers)
	{
		if (!dlist_container(Worker, node, iter.cur)->runs_on)
			return true;
	}
	return false;
}

/* Copy what is public of a worker's job. */
static void
read_job_info(WorkerShared *shared, JobInfo *info)
{
	SpinLockAcquire(&shared->mutex);
	*info = shared->info;
	SpinLockRelease(&shared->mutex);
}

/* Take over what a job has said of its progress. */
static void
keep_progress(Job *job, WorkerShared *shared)
{
	JobInfo		info;

	read_job_info(shared, &info);
	job->progress_pct = info.progress_pct;
	strlcpy(job->progress_msg, info.progress_msg, PROGRESS_SIZE);
}

/* Give up what a spool holds.  Nothing here can fail. */
static void
drop_spool(Spool *spool)
{
	if (spool->file > 0)
		FileClose(spool->file);
	if (spool->data != NULL)
		pfree(spool->data);
	memset(spool, 0, sizeof(Spool));
}

/* A job that has no handle goes when nobody needs it any more. */
static void
free_forgotten_job(Job *job)
{
	if (!job->forgotten || job->worker != NULL || job->pins > 0)
		return;
	drop_spool(&job->spool);
	MemoryContextDelete(job->context);
}

static void
pin_job(Job *job)
{
	job->pins++;
}

static void
unpin_job(Job *job)
{
	job->pins--;
	free_forgotten_job(job);
}

/* A job and its worker part. */
static void
detach_job(Worker *worker)
{
	Job		   *job = worker->job;

	job->worker = NULL;
	worker->job = NULL;
	keep_progress(job, worker->shared);
	free_forgotten_job(job);
}

/*
 * Let a worker go.  Unmapping its segment detaches both queues; that is how
 * the worker learns that nobody will send it anything more, or read what it
 * says.  Where it still runs a job, the job goes on to its end.
 *
 * A worker that has ended its job is remembered until its process is gone.
 */
static void
release_worker(Worker *worker, bool ended)
{
	/* Where the message is sent, that must not be where we are interrupted. */
	HOLD_INTERRUPTS();
	elog(DEBUG2, "pg_background: cleaning up worker pid=%d",
		 (int) worker->pid);
	RESUME_INTERRUPTS();

	if (worker->job != NULL)
		detach_job(worker);
	dlist_delete(&worker->node);

	/* A worker that was sent a job may still have to map the segment. */
	if (ended || !worker->sent)
		unpin_segment(&worker->shared->head,
					  dsm_segment_handle(worker->segment));
	shm_mq_detach(worker->requests);
	shm_mq_detach(worker->results);
	dsm_detach(worker->segment);

	if (ended)
		dlist_push_tail(&leaving_workers, &worker->node);
	else
		MemoryContextDelete(worker->context);
}

/* How many workers wait for another job? */
static int
count_idle_workers(void)
{
	dlist_iter	iter;
	int			idle = 0;

	dlist_foreach(iter, &workers)
		idle += dlist_container(Worker, node, iter.cur)->job == NULL;
	return idle;
}

/*
 * How long may a worker wait for another job after the one that it is to be
 * sent, in milliseconds?  -1 means not at all.
 *
 * Those that do so already or will are counted now, for nobody may be there to
 * count them when they have ended theirs.  One too many waits for a moment
 * only, so that a session that keeps more of them busy starts no processes.
 */
static int
choose_idle_timeout(Worker *worker)
{
	dlist_iter	iter;
	int			others = 0;

	dlist_foreach(iter, &workers)
	{
		Worker	   *other = dlist_container(Worker, node, iter.cur);

		others += other != worker && other->stay;
	}
	worker->stay = others < max_idle_workers;
	if (max_idle_workers == 0)
		return -1;
	return worker->stay ? idle_timeout : Min(idle_timeout, spare_idle_timeout);
}

/*
 * Let workers go that wait for another job, the longest waiting first, until
 * only so many are left.
 */
static void
release_idle_workers(int keep)
{
	dlist_mutable_iter iter;
	int			excess = count_idle_workers() - keep;

	dlist_foreach_modify(iter, &workers)
	{
		Worker	   *worker = dlist_container(Worker, node, iter.cur);

		if (excess <= 0)
			break;
		if (worker->job != NULL)
			continue;
		release_worker(worker, true);
		excess--;
	}
}

/*
 * A worker is to be started, though some may wait: for jobs of another user or
 * queue size.  Let the longest waiting go, so that the new one may wait, too.
 */
static void
make_room_for_idle(void)
{
	if (max_idle_workers > 0)
		release_idle_workers(max_idle_workers - 1);
}

/* Let workers go where max_idle_workers has become smaller. */
static void
heed_lower_limit(void)
{
	static int	old_limit = 0;

	if (max_idle_workers < old_limit)
		release_idle_workers(max_idle_workers);
	old_limit = max_idle_workers;
}

/*
 * A worker has said done.  Keep it for another job, or let it go: one whose
 * job was canceled is not used again, since the signal may still be on its
 * way.  No other worker is touched: our caller may be walking along them.
 */
static void
end_job(Worker *worker, bool stays)
{
	Job		   *job = worker->job;

	if (!stays || job->cancel_requested)
	{
		release_worker(worker, true);
		return;
	}

	(void) change_state(worker->shared, WORKER_ENDED, WORKER_READY);
	detach_job(worker);
	dlist_delete(&worker->node);
	dlist_push_tail(&workers, &worker->node);
}

/* The size of the request for a job; worker is NULL for one yet to start. */
static Size
request_size(Job *job, Worker *worker)
{
	Size		size = sizeof(Request) + strlen(job->sql) + 1 + job->params.len;

	if (job->settings != NULL)
		size += job->settings->len;
	else if (worker == NULL ||
			 worker->settings_generation != settings_generation)
		size += settings.len;
	return size;
}

/* May a job's worker have had another job before, or have one afterwards? */
static bool
shares_worker(Job *job)
{
	return !job->is_v1 && !OidIsValid(job->request.hold_user);
}

/*
 * Give a job a worker that waits for one.  Returns false where there is none
 * that would do.
 */
static bool
claim_idle_worker(Job *job)
{
	dlist_iter	iter;

	/* The last one to end its job is the one that least likely sleeps. */
	dlist_reverse_foreach(iter, &workers)
	{
		Worker	   *worker = dlist_container(Worker, node, iter.cur);

		if (worker->job == NULL &&
			worker->login_user == job->login_user &&
			worker->connection_flags == job->connection_flags &&
			worker->queue_size == job->queue_size &&
			worker->request_room >= request_size(job, worker) &&
			change_state(worker->shared, WORKER_READY, WORKER_CLAIMED))
		{
			/* What was made for a new one is not needed. */
			if (job->worker != NULL)
				release_worker(job->worker, false);
			worker->job = job;
			job->worker = worker;
			job->pid = worker->pid;
			return true;
		}
	}
	return false;
}

/*
 * Make a segment with room for a request of so many bytes.
 */
static void
create_segment(Worker *worker, Size room)
{
	WorkerShared *shared;
	Size		request_queue = MAXALIGN(sizeof(WorkerShared));
	Size		result_queue;
	shm_mq	   *queue;

	/* The queue needs its own header and a length word, too. */
	worker->request_room = Max(room, MIN_REQUEST_SIZE);
	result_queue = request_queue + MAXALIGN(worker->request_room) +
		MAXALIGN(shm_mq_minimum_size) + MAXIMUM_ALIGNOF;
	worker->segment = dsm_create(result_queue + worker->queue_size, 0);
	shared = dsm_segment_address(worker->segment);
	memset(shared, 0, sizeof(WorkerShared));
	shared->head.magic = SEGMENT_MAGIC;
	shared->database = MyDatabaseId;
	shared->login_user = worker->login_user;
	shared->connection_flags = worker->connection_flags;
	shared->request_queue = request_queue;
	shared->result_queue = result_queue;
	shared->launcher_pid = MyProcPid;
	shared->launcher_segment = my_segment;
	pg_atomic_init_u32(&shared->head.pinned, 0);
	pg_atomic_init_u32(&shared->launcher_waits, 0);
	pg_atomic_init_u32(&shared->canceled, 0);
	pg_atomic_init_u32(&shared->discard, 0);
	SpinLockInit(&shared->mutex);
	pg_atomic_init_u32(&shared->state, WORKER_STARTING);
	pg_atomic_init_u64(&shared->idle_since, 0);
	worker->shared = shared;

	queue = shm_mq_create((char *) shared + request_queue,
						  result_queue - request_queue);
	shm_mq_set_sender(queue, MyProc);
	worker->requests = shm_mq_attach(queue, worker->segment, NULL);

	queue = shm_mq_create((char *) shared + result_queue, worker->queue_size);
	shm_mq_set_receiver(queue, MyProc);
	worker->results = shm_mq_attach(queue, worker->segment, NULL);
}

static bool
can_log_in(Oid user)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(user));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role with OID %u does not exist", user)));
	result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Say whom a worker must connect as, and what its request must say of users,
 * so that nothing that the job runs can make it a user that the one whose code
 * launches it could not become in a session of his own.
 *
 * *connection_flags says whether it may connect though the user has no LOGIN:
 * only for the owner of a SECURITY DEFINER function that another user has called,
 * since an owner need not have it, and for what such a job launches in turn.  Of
 * anybody else, it is what the administrator takes away to keep him out.
 *
 * Errors: 42501 in a security-restricted operation, where code of one user
 * runs with the rights of another who may not know of it.
 */
static Oid
choose_user(Request *request, uint32 *connection_flags)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);

	if (context & SECURITY_RESTRICTED_OPERATION)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot launch a background job within security-restricted operation")));

	/*
	 * Inside a SECURITY DEFINER function or the like, a worker that is
	 * connected as the owner itself cannot become the caller.
	 */
	*connection_flags = my_shared != NULL ? my_shared->connection_flags : 0;
	if (context & SECURITY_LOCAL_USERID_CHANGE)
	{
		bool		has_login = can_log_in(user);

		if (has_login || BYPASS_LOGIN_CHECK != 0)
		{
			if (user != GetAuthenticatedUserId())
				*connection_flags = has_login ? 0 : BYPASS_LOGIN_CHECK;
			request->session_user = user;
			return user;
		}

		/* Where that is impossible, the job is as locked in as we are. */
		request->hold_user = user;
	}

	request->session_user = GetSessionUserId();
	request->role = GetCurrentRoleId();
	return GetAuthenticatedUserId();
}

/*
 * Make for a job all of a worker but its process.
 *
 * Errors: those of dsm_create().
 */
static void
prepare_worker(Job *job)
{
	Worker	   *worker;
	MemoryContext context;
	MemoryContext oldcontext;

	/* Until all that can fail has been done, it goes with the caller's. */
	context = AllocSetContextCreate(CurrentMemoryContext, "pg_background worker",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	worker = palloc0(sizeof(Worker));
	worker->context = context;
	worker->login_user = job->login_user;
	worker->connection_flags = job->connection_flags;
	worker->queue_size = job->queue_size;
	create_segment(worker, request_size(job, NULL));
	dsm_pin_mapping(worker->segment);
	MemoryContextSetParent(context, launcher_context);
	dlist_push_tail(&workers, &worker->node);
	worker->job = job;
	job->worker = worker;
	MemoryContextSwitchTo(oldcontext);
}

/*
 * What a worker finds this library by: the file that it was loaded from.  The
 * worker looks for it before it is connected, so that a dynamic_library_path
 * that was set for the session, or its database, is not there to find it in.
 *
 * Before 17, there is no room for a long path.
 */
static const char *
library_name(void)
{
	static char name[sizeof(((BackgroundWorker *) NULL)->bgw_library_name)];
#ifndef WIN32
	Dl_info		info;

	/* Where we are loaded from does not change. */
	if (name[0] != '\0')
		return name;
	if (dladdr(name, &info) != 0 && is_absolute_path(info.dli_fname))
	{
		const char *file = last_dir_separator(info.dli_fname) + 1;
		size_t		dir_size = file - info.dli_fname - 1;

		if (strlen(info.dli_fname) < sizeof(name))
			strlcpy(name, info.dli_fname, sizeof(name));
		else if (strncmp(info.dli_fname, pkglib_path, dir_size) == 0 &&
				 pkglib_path[dir_size] == '\0')
			snprintf(name, sizeof(name), "$libdir/%s", file);
	}
#endif
	if (name[0] == '\0')
		strlcpy(name, LIBRARY_NAME, sizeof(name));
	return name;
}

/*
 * Something has changed in what says who may log in, to our database, and as
 * what: a worker that has logged in before is not to be used any more.  A hash of
 * 0 stands for anything.
 */
static void
count_login_change(Datum arg, CatalogCache cache, uint32 hash)
{
	if (cache != DATABASEOID || hash == 0 || hash == database_hash)
		login_generation++;
}

/* Let workers go that wait for another job, and logged in before a change. */
static void
release_outdated_workers(void)
{
	dlist_mutable_iter iter;

	AcceptInvalidationMessages();
	dlist_foreach_modify(iter, &workers)
	{
		Worker	   *worker = dlist_container(Worker, node, iter.cur);

		if (worker->job == NULL && worker->login_generation != login_generation)
			release_worker(worker, true);
	}
}

/*
 * Ask the postmaster for the process of a worker.  Returns false where no slot
 * is free.
 *
 * The segment is pinned for no longer than there is a process to come: a
 * session that ends while it waits for a slot must not leave it behind.
 */
static bool
register_worker(Worker *worker)
{
	BackgroundWorker registration;
	MemoryContext oldcontext;
	bool		registered;

	memset(&registration, 0, sizeof(registration));
	registration.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	registration.bgw_start_time = BgWorkerStart_ConsistentState;
	registration.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(registration.bgw_library_name, library_name(),
			sizeof(registration.bgw_library_name));
	strlcpy(registration.bgw_function_name, "pg_background_worker_main",
			BGW_MAXLEN);
	strlcpy(registration.bgw_name, WORKER_NAME, BGW_MAXLEN);
	strlcpy(registration.bgw_type, WORKER_NAME, BGW_MAXLEN);
	registration.bgw_main_arg =
		UInt32GetDatum(dsm_segment_handle(worker->segment));
	registration.bgw_notify_pid = MyProcPid;

	worker->login_generation = login_generation;
	dsm_pin_segment(worker->segment);
	pg_atomic_write_u32(&worker->shared->head.pinned, 1);
	oldcontext = MemoryContextSwitchTo(worker->context);
	registered = RegisterDynamicBackgroundWorker(&registration,
												 &worker->handle);
	MemoryContextSwitchTo(oldcontext);
	if (!registered)
		unpin_segment(&worker->shared->head,
					  dsm_segment_handle(worker->segment));
	return registered;
}

/*
 * Start a process for a job, and wait until it has a PID.  It need not have
 * mapped the segment then, nor connected.  Returns false where no slot is free;
 * what was made for it then waits with the job for the next try.
 *
 * On error the job has a worker that is to be let go, or none.
 *
 * Errors: 53000 where the process cannot be started, 57P01 where the
 * postmaster is gone, those of dsm_create(), and whatever interrupts us.
 */
static bool
start_worker(Job *job)
{
	Worker	   *worker;

	if (job->worker == NULL)
		prepare_worker(job);
	worker = job->worker;
	if (!register_worker(worker))
		return false;

	/* Without the handle, a worker that dies unattached would go unnoticed. */
	shm_mq_set_handle(worker->requests, worker->handle);
	shm_mq_set_handle(worker->results, worker->handle);

	switch (WaitForBackgroundWorkerStartup(worker->handle, &worker->pid))
	{
		case BGWH_STARTED:
			break;
		case BGWH_POSTMASTER_DIED:
			ereport(ERROR,
					(errcode(ERRCODE_ADMIN_SHUTDOWN),
					 errmsg("cannot start background processes without postmaster"),
					 errhint("Kill all remaining database processes and restart the database.")));
			break;
		default:

			/*
			 * It may have started and ended already, leaving word of why; if
			 * it has not even come to that, no process was started.
			 */
			worker->pid = worker->shared->head.pid;
			if (worker->pid == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
						 errmsg("could not start background process"),
						 errhint("More details may be available in the server log.")));
	}
	job->pid = worker->pid;
	return true;
}

/*
 * The session ends.  A process that has not been sent a job need not find its
 * segment, and where none was started, nobody else would let go of the pin.
 */
static void
unpin_unsent(int code, Datum arg)
{
	dlist_iter	iter;

	dlist_foreach(iter, &workers)
	{
		Worker	   *worker = dlist_container(Worker, node, iter.cur);

		if (!worker->sent)
			unpin_segment(&worker->shared->head,
						  dsm_segment_handle(worker->segment));
	}
}

/*
 * Send a signal to a worker and to the programs that it has started, as
 * pg_cancel_backend() and pg_terminate_backend() do.
 */
static void
signal_worker(Worker *worker, int signal)
{
	pid_t		pid;

	/* The postmaster may have given the PID to another process. */
	if (GetBackgroundWorkerPid(worker->handle, &pid) != BGWH_STARTED)
		return;
#ifdef HAVE_SETSID
	/* A process that has just started does not lead a group yet. */
	if (kill(-pid, signal) == 0)
		return;
#endif
	(void) kill(pid, signal);
}

/*
 * Ask for a running job to be canceled, as pg_cancel_backend() would.  The
 * worker is asked through its segment, too: it may not have begun.
 */
static void
cancel_job(Job *job)
{
	Worker	   *worker = job->worker;

	elog(DEBUG2, "pg_background: cancel requested for pid=%d cookie=" INT64_FORMAT,
		 (int) job->pid, job->cookie);

	job->cancel_requested = true;
	pg_atomic_write_u32(&worker->shared->canceled, 1);

	signal_worker(worker, SIGINT);
}

/* ----------------------------------------------------------------
 *		The launcher: what a worker says
 * ----------------------------------------------------------------
 */

/* Errors that need no memory */
static ErrorData out_of_memory_error = {
	.elevel = ERROR,
	.sqlerrcode = ERRCODE_OUT_OF_MEMORY,
	.message = "out of memory",
	.detail = "What the background job said could not be taken over. What it has committed stays."
};
static ErrorData deadlock_error = {
	.elevel = ERROR,
	.sqlerrcode = ERRCODE_T_R_DEADLOCK_DETECTED,
	.message = "deadlock detected",
	.detail = "The background job waited for a lock that its session held, and the session waited for the job."
};
/* That of a job without a handle, which nobody will read */
static ErrorData unread_error = {
	.elevel = ERROR,
	.sqlerrcode = ERRCODE_QUERY_CANCELED,
	.message = "canceling statement due to user request"
};

/* Somebody still cares for a submitted job that has ended. */
static void
use_job(Job *job)
{
	if (!job->unused)
		return;
	dlist_delete(&job->unused_node);
	job->unused = false;
	nunused_jobs--;
}

/*
 * Forget a job.  Where it runs it goes on to its end, which is noticed, but
 * nothing that it says is kept.
 *
 * Its worker may be waiting for room in its queue, with a message half sent.
 * It is told to say no more, is given room for what it is just saying, and
 * gives up the queue only if that is not enough.
 */
static void
forget_job(Job *job)
{
	Worker	   *worker = job->worker;
	PGPROC	   *sender;

	(void) hash_search(jobs_by_cookie, &job->cookie, HASH_REMOVE, NULL);
	dlist_delete(&job->node);
	use_job(job);
	job->forgotten = true;

	if (worker == NULL)
	{
		free_forgotten_job(job);
		return;
	}
	if (!job->sent)
	{
		release_worker(worker, false);
		return;
	}

	/*
	 * One that is canceled is not used again.  We may be handling an error here,
	 * which is no place to find another one.
	 */
	pg_atomic_write_u32(&worker->shared->discard, DROP_NEW);
	while (worker->job == job && !job->cancel_requested && pump_worker(worker))
		;
	if (worker->job != job)
		return;
	pg_atomic_write_u32(&worker->shared->discard, DROP_ALL);
	sender = shm_mq_get_sender(shm_mq_get_queue(worker->results));
	if (sender != NULL)
		SetLatch(&sender->procLatch);
}

/*
 * Forget those submitted jobs that ended first of those that nobody has asked
 * for since, until there are no more than MAX_UNUSED_JOBS.
 */
static void
forget_unused_jobs(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &unused_jobs)
	{
		Job		   *job = dlist_container(Job, unused_node, iter.cur);

		if (nunused_jobs <= MAX_UNUSED_JOBS)
			break;
		if (job->pins == 0)
			forget_job(job);
	}
}

/* Forget all jobs of the session, and let all its workers go. */
static void
forget_all_jobs(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &jobs)
		forget_job(dlist_container(Job, node, iter.cur));
	dlist_foreach_modify(iter, &workers)
	{
		Worker	   *worker = dlist_container(Worker, node, iter.cur);

		release_worker(worker, worker->job == NULL);
	}
}

/*
 * Take the line that tells the job from the end of a message's context: who
 * reads the message knows which job he has launched.
 */
static void
drop_job_line(ErrorData *edata)
{
	char	   *end;
	char	   *line;

	if (edata->context == NULL)
		return;
	end = strrchr(edata->context, '\n');
	line = end != NULL ? end + 1 : edata->context;
	if (strncmp(line, JOB_LINE_START, strlen(JOB_LINE_START)) != 0)
		return;
	if (end != NULL)
		*end = '\0';
	else
	{
		pfree(edata->context);
		edata->context = NULL;
	}
}

/*
 * Take apart a protocol message that the server has made of an error or a
 * notice.
 */
static ErrorData *
parse_message(char *data, Size size)
{
	ErrorData  *edata = palloc0(sizeof(ErrorData));
	StringInfoData msg;

	initStringInfo(&msg);
	appendBinaryStringInfo(&msg, data, size);
	pq_parse_errornotice(&msg, edata);
	pfree(msg.data);
	drop_job_line(edata);
	return edata;
}

/*
 * Make an error that no message tells of.  Where there is no memory for it, that
 * is the error: nothing here fails.
 */
static ErrorData *
make_error(Job *job, int sqlerrcode, const char *message, const char *hint)
{
	typedef struct MadeError
	{
		ErrorData	edata;
		char		message[LAST_ERROR_SIZE];
		char		hint[LAST_ERROR_SIZE];
	} MadeError;
	MadeError  *made = MemoryContextAllocExtended(job->context,
												  sizeof(MadeError),
												  MCXT_ALLOC_NO_OOM |
												  MCXT_ALLOC_ZERO);

	if (made == NULL)
		return &out_of_memory_error;
	made->edata.elevel = ERROR;
	made->edata.sqlerrcode = sqlerrcode;
	made->edata.message = made->message;
	strlcpy(made->message, message, LAST_ERROR_SIZE);
	if (hint[0] != '\0')
		made->edata.hint = made->hint;
	strlcpy(made->hint, hint, LAST_ERROR_SIZE);
	return &made->edata;
}

/* An anonymous record's type is known only to the session that made it. */
static bool
is_anonymous(Oid type)
{
	return type == RECORDOID || type == RECORDARRAYOID;
}

/* In the description of rows, a temporary type is InvalidOid. */
static bool
type_exists(Oid type)
{
	return OidIsValid(type) &&
		(type < FirstNormalObjectId ||
		 SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type)));
}

/*
 * A number for how values of a type are laid out, as far as ALTER TYPE can
 * change that: 0 where it cannot, since no composite type is in it.
 */
static uint32
type_version(Oid type)
{
	uint32		version = 0;
	TupleDesc	desc;

	/* What initdb has made stays as it is. */
	if (type < FirstNormalObjectId)
		return 0;
	check_stack_depth();

	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			return type_version(getBaseType(type));
		case TYPTYPE_RANGE:
			return type_version(get_range_subtype(type));
		case TYPTYPE_MULTIRANGE:
			return type_version(get_multirange_range(type));
		case TYPTYPE_COMPOSITE:
			break;
		default:
			type = get_element_type(type);
			return OidIsValid(type) ? type_version(type) : 0;
	}

	desc = lookup_rowtype_tupdesc(type, -1);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		version = hash_combine(version, hash_uint32(attr->attisdropped));
		version = hash_combine(version, hash_uint32(attr->attlen));
		version = hash_combine(version, hash_uint32(attr->attalign));
		version = hash_combine(version, hash_uint32(attr->atttypid));
		if (OidIsValid(attr->atttypid))
			version = hash_combine(version, type_version(attr->atttypid));
	}
	ReleaseTupleDesc(desc);
	return Max(version, 1);
}

/*
 * Compare the rows of a job with a caller's column definition list.  Returns
 * the index of the first column that differs, -1 where there is none.
 *
 * As the server does where a function returns record, only the types are
 * compared, not their modifiers.  A domain may be read as its base type.  A
 * type that has been altered since is not the one that the rows are of.
 */
static int
find_mismatch(TupleDesc actual, uint32 *versions, TupleDesc expected)
{
	for (int i = 0; i < actual->natts && i < expected->natts; i++)
	{
		Oid			type = TupleDescAttr(actual, i)->atttypid;
		Oid			wanted = TupleDescAttr(expected, i)->atttypid;

		if (is_anonymous(type) || !type_exists(type) ||
			(type != wanted && getBaseType(type) != wanted) ||
			type_version(wanted) != versions[i])
			return i;
	}
	return actual->natts == expected->natts ? -1 :
		Min(actual->natts, expected->natts);
}

/*
 * Complain of a column that no caller can take, whatever he expects.
 *
 * Errors: 0A000.
 */
static void
check_column_type(Form_pg_attribute attr)
{
	if (!type_exists(attr->atttypid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of the remote query result is of a type that is gone",
						NameStr(attr->attname)),
				 errdetail("A temporary table's row type goes with the job."),
				 errhint("Cast it to text or to a permanent composite type.")));
	if (is_anonymous(attr->atttypid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of the remote query result is an anonymous record",
						NameStr(attr->attname)),
				 errhint("Cast it to a named composite type.")));
}

/*
 * Complain where the rows of a job are not what the caller expects.
 *
 * Errors: 42804, or 0A000 for a column that no caller can take.
 */
static void
check_row_type(Job *job, TupleDesc expected)
{
	const char *message = "remote query result rowtype does not match the specified FROM clause rowtype";
	TupleDesc	actual = job->desc;
	int			column = find_mismatch(actual, job->versions, expected);
	Form_pg_attribute attr;
	Oid			wanted;

	if (column < 0)
		return;
	attr = column < actual->natts ? TupleDescAttr(actual, column) : NULL;
	if (attr != NULL)
		check_column_type(attr);

	if (actual->natts != expected->natts)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg_internal("%s", message),
				 errdetail_plural("Returned row contains %d column, but the query expects %d.",
								  "Returned row contains %d columns, but the query expects %d.",
								  actual->natts,
								  actual->natts, expected->natts)));

	wanted = TupleDescAttr(expected, column)->atttypid;
	if (attr->atttypid == wanted || getBaseType(attr->atttypid) == wanted)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg_internal("%s", message),
				 errdetail("Type %s of column \"%s\" at position %d was altered after the job had begun.",
						   format_type_be(wanted),
						   NameStr(attr->attname), column + 1)));

	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg_internal("%s", message),
			 errdetail("Column \"%s\" at position %d has type %s, but the query expects %s.",
					   NameStr(attr->attname), column + 1,
					   format_type_be(attr->atttypid),
					   format_type_be(wanted))));
}

/*
 * Move what a spool has in memory to its file.
 *
 * Errors: those of temporary files.  The spool can be dropped then, and no
 * more.
 */
static void
flush_spool(Spool *spool)
{
	Size		written = 0;

	/* It outlives the transaction, so it is in the database's tablespace. */
	if (spool->file <= 0)
		spool->file = OpenTemporaryFile(true);
	while (written < spool->size)
	{
		int			n;

		errno = 0;
		n = FileWrite(spool->file, spool->data + written,
					  Min(spool->size - written, SPOOL_BLOCK),
					  spool->file_size, WAIT_EVENT_BUFFILE_WRITE);
		if (n <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write to file \"%s\": %m",
							FilePathName(spool->file))));
		}
		written += n;
		spool->file_size += n;
	}
	spool->size = 0;
}

/*
 * Add some frames to a job's spool.
 *
 * Errors: those of flush_spool().
 */
static void
add_to_spool(Job *job, const char *frames, Size size)
{
	Spool	   *spool = &job->spool;
	Size		limit = spool->file > 0 ? SPOOL_BLOCK : work_mem * (Size) 1024;

	if (spool->size > 0 && spool->size + size > limit)
		flush_spool(spool);
	if (spool->size + size > spool->room)
	{
		Size		room = Max(512, spool->size + size);

		room = Max(room, Min(2 * spool->room, limit));
		if (spool->data == NULL)
			spool->data = MemoryContextAllocHuge(job->context, room);
		else
			spool->data = repalloc_huge(spool->data, room);
		spool->room = room;
	}
	memcpy(spool->data + spool->size, frames, size);
	spool->size += size;
}

/*
 * Reading a spool from its beginning.  What it has of the file is a piece of
 * some size, longer where a frame is; a row that was sent in parts is put
 * together.
 */
typedef struct SpoolScan
{
	Spool	   *spool;
	MemoryContext context;
	off_t		pos;			/* of the next frame */
	char	   *block;
	off_t		block_pos;
	Size		block_size;
	char	   *part;			/* a large row, as far as it was read */
	Size		part_size;
	bool		part_complete;

	/* What was read last */
	uint32		kind;
	char	   *data;
	Size		size;
} SpoolScan;

/* Start at the beginning; what a scan allocates is in the current context. */
static void
begin_scan(SpoolScan *scan, Job *job)
{
	memset(scan, 0, sizeof(SpoolScan));
	scan->spool = &job->spool;
	scan->context = CurrentMemoryContext;
}

/*
 * Have so many bytes of a spool at hand.
 *
 * Errors: those of reading a file.
 */
static char *
scan_bytes(SpoolScan *scan, off_t pos, Size size)
{
	Spool	   *spool = scan->spool;
	Size		length;

	if (pos >= spool->file_size)
		return spool->data + (pos - spool->file_size);
	if (scan->block != NULL && pos >= scan->block_pos &&
		pos + size <= scan->block_pos + scan->block_size)
		return scan->block + (pos - scan->block_pos);

	if (scan->block != NULL)
		pfree(scan->block);
	scan->block = NULL;
	length = Min((off_t) Max(size, SPOOL_BLOCK), spool->file_size - pos);
	scan->block = MemoryContextAllocHuge(scan->context, length);
	scan->block_pos = pos;
	scan->block_size = 0;
	while (scan->block_size < length)
	{
		int			n = FileRead(spool->file, scan->block + scan->block_size,
								 Min(length - scan->block_size, SPOOL_BLOCK),
								 pos + scan->block_size,
								 WAIT_EVENT_BUFFILE_READ);

		if (n <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 n < 0 ? errmsg("could not read file \"%s\": %m",
									FilePathName(spool->file)) :
					 errmsg("could not read file \"%s\": unexpected end of file",
							FilePathName(spool->file))));
		scan->block_size += n;
	}
	return scan->block;
}

/* Add a part to the large row that is being read. */
static void
add_row_part(SpoolScan *scan)
{
	if (scan->part == NULL)
	{
		scan->part = MemoryContextAllocHuge(scan->context,
											((MinimalTuple) scan->data)->t_len);
		scan->part_size = 0;
	}
	if (scan->part_size > 0 &&
		scan->part_size + scan->size > ((MinimalTuple) scan->part)->t_len)
		elog(ERROR, "row is longer than it says");
	memcpy(scan->part + scan->part_size, scan->data, scan->size);
	scan->part_size += scan->size;
}

/* Read the next frame, or whole row.  Returns false at the end. */
static bool
next_frame(SpoolScan *scan)
{
	if (scan->part_complete)
	{
		pfree(scan->part);
		scan->part = NULL;
		scan->part_complete = false;
	}

	while (scan->pos < scan->spool->file_size + (off_t) scan->spool->size)
	{
		FrameHeader header;

		memcpy(&header, scan_bytes(scan, scan->pos, FRAME_HEADER_SIZE),
			   sizeof(header));
		scan->kind = header.kind;
		scan->size = header.size;
		scan->data = scan_bytes(scan, scan->pos, frame_space(header.size)) +
			FRAME_HEADER_SIZE;
		scan->pos += frame_space(header.size);

		if (scan->kind == FRAME_ROW_PART ||
			(scan->kind == FRAME_ROW && scan->part != NULL))
		{
			add_row_part(scan);
			if (scan->kind == FRAME_ROW_PART)
				continue;
			scan->data = scan->part;
			scan->part_complete = true;
		}
		return true;
	}
	return false;
}

/* What was read will not be read again.  The scan goes on with what comes. */
static void
trim_spool(SpoolScan *scan)
{
	Spool	   *spool = scan->spool;

	if (spool->file > 0)
	{
		FileClose(spool->file);
		spool->file = 0;
		spool->file_size = 0;
	}
	spool->size = 0;
	scan->pos = 0;
	scan->block_size = 0;
}

/* Take a description of rows apart. */
static void
parse_row_description(char *data, Size size, TupleDesc *desc, uint32 **versions)
{
	int			natts = size / (ATTRIBUTE_FIXED_PART_SIZE + sizeof(uint32));

	*desc = CreateTemplateTupleDesc(natts);
	for (int i = 0; i < natts; i++)
		memcpy(TupleDescAttr(*desc, i), data + i * ATTRIBUTE_FIXED_PART_SIZE,
			   ATTRIBUTE_FIXED_PART_SIZE);
	finish_tuple_desc(*desc);
	*versions = palloc(Max(natts, 1) * sizeof(uint32));
	memcpy(*versions, data + natts * ATTRIBUTE_FIXED_PART_SIZE,
		   natts * sizeof(uint32));
}

/* Is this a part of what whoever reads a result is to have? */
static bool
is_result_frame(uint32 kind)
{
	return kind == FRAME_ROW || kind == FRAME_ROW_PART ||
		kind == FRAME_ROW_DESCRIPTION || kind == FRAME_COMMAND ||
		kind == FRAME_NOTICE;
}

/*
 * Take over from a frame what it says of the job.  Returns whether it is to be
 * kept as it is, too, for whoever reads the result.
 *
 * Of a job without a handle, only how it ended counts.  Where a command gives
 * more than one result (a rule can do that), the last one counts, as it does
 * for clients that send a simple-query message.
 */
static bool
take_frame(Job *job, uint32 kind, char *data, Size size)
{
	bool		kept = is_result_frame(kind) && !job->lost && !job->forgotten;
	CommandFrame *command = (CommandFrame *) data;
	WarningsFrame *warnings = (WarningsFrame *) data;

	switch (kind)
	{
		case FRAME_ROW:
		case FRAME_ROW_PART:
		case FRAME_NOTICE:
			break;
		case FRAME_ROW_DESCRIPTION:
			if (kept)
				parse_row_description(data, size, &job->desc, &job->versions);
			break;
		case FRAME_COMMAND:
			job->ncommands++;
			job->row_count = command->row_count;
			strlcpy(job->command_tag, command->tag, COMPLETION_TAG_BUFSIZE);
			break;
		case FRAME_WARNINGS:
			job->warnings = warnings->count;
			job->last_warning = pstrdup(warnings->last);
			break;
		case FRAME_ERROR:
			job->error = job->forgotten ? &unread_error :
				parse_message(data, size);
			break;
		default:
			elog(ERROR, "unrecognized frame kind in result queue: %u", kind);
	}
	return kept;
}

/*
 * Something that a job has said could not be taken over, for want of memory or
 * disk space: the error that is being handled is that job's, and nobody
 * else's.  What was kept of it goes, so that there is room again.
 *
 * There is no subtransaction, since nothing but memory and files was touched.
 */
static void
blame_job(Job *job)
{
	ErrorData  *volatile error = &out_of_memory_error;

	drop_spool(&job->spool);
	job->lost = true;

	MemoryContextSwitchTo(job->context);
	PG_TRY();
	{
		error = CopyErrorData();
		if (error->detail == NULL)
			error->detail = out_of_memory_error.detail;
	}
	PG_CATCH();
	{
		/* There is not even memory for the error. */
		error = &out_of_memory_error;
	}
	PG_END_TRY();
	FlushErrorState();
	if (job->error == NULL)
		job->error = error;
}

/*
 * Take over the frames of the message at hand, up to where the job is done.
 * Returns what it then says, NULL where it is not.
 */
static DoneFrame *
take_frames(Worker *worker)
{
	Job		   *job = worker->job;
	MemoryContext oldcontext = MemoryContextSwitchTo(job->context);
	DoneFrame  *done = NULL;
	char	   *kept = NULL;	/* the first of those that are to be kept */

	while (done == NULL && worker->message_pos < worker->message_size)
	{
		char	   *frame = worker->message + worker->message_pos;
		FrameHeader *header = (FrameHeader *) frame;
		char	   *data = frame + FRAME_HEADER_SIZE;

		if (kept != NULL && !is_result_frame(header->kind))
		{
			add_to_spool(job, kept, frame - kept);
			kept = NULL;
		}

		/* Where it cannot be taken over, we go on with the one after. */
		worker->message_pos += frame_space(header->size);
		if (header->kind == FRAME_DONE)
			done = (DoneFrame *) data;
		else if (take_frame(job, header->kind, data, header->size) &&
				 kept == NULL)
			kept = frame;
	}
	if (kept != NULL)
		add_to_spool(job, kept,
					 worker->message + worker->message_pos - kept);
	MemoryContextSwitchTo(oldcontext);
	return done;
}

/*
 * Can a job be said to have been canceled?  By the time the grace has passed,
 * it is the process that is ended.
 */
static bool
is_canceled(Job *job)
{
	return job->canceled ||
		(job->error != NULL && job->cancel_requested &&
		 (job->error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		  job->error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN));
}

/* Count a job that has ended. */
static void
count_job(Job *job)
{
	static uint64 ended = 0;

	/* Not one whose worker died before it was handed the job */
	if (!job->sent)
		return;
	job->end_number = ++ended;
	if (job->submitted && !job->forgotten)
	{
		dlist_push_tail(&unused_jobs, &job->unused_node);
		job->unused = true;
		nunused_jobs++;
	}
	if (job->deadlocked && is_canceled(job))
		job->error = &deadlock_error;
	if (job->error == NULL)
	{
		stats.completed++;
		stats.execution += job->execution;
	}
	else if (is_canceled(job))
		stats.canceled++;
	else
		stats.failed++;
}

/* The error of a job whose process has ended, as far as it is known */
static ErrorData *
loss_of_worker(Worker *worker)
{
	LastWords  *last_words = &worker->shared->head.last_words;
	char		message[LAST_ERROR_SIZE];

	if (worker->job->forgotten)
		return worker->job->cancel_requested ? &unread_error : NULL;
	if (last_words->sqlerrcode != 0)
		return make_error(worker->job, last_words->sqlerrcode,
						  last_words->message, last_words->hint);
	snprintf(message, sizeof(message),
			 "lost connection to worker process with PID %d",
			 (int) worker->pid);
	return make_error(worker->job, ERRCODE_CONNECTION_FAILURE, message,
					  "More details may be available in the server log.");
}

/*
 * A worker's process has ended, or so it seems.  Where that ends its job, and
 * it did not say why in the queue, it may have left word in the segment; or the
 * job has ended well, and only what it had still to say is lost.
 */
static void
worker_lost(Worker *worker)
{
	Job		   *job = worker->job;
	uint32		state = pg_atomic_read_u32(&worker->shared->state);

	if (job != NULL && job->error == NULL)
	{
		if (worker->shared->head.last_words.sqlerrcode == 0 &&
			state == WORKER_ENDED)
			job->lost = true;
		else
			job->error = loss_of_worker(worker);
	}
	/* A job that nobody listens to has given up its queue, and not ended. */
	worker->runs_on = job != NULL && state == WORKER_RUNNING &&
		!job->cancel_requested && (job->forgotten || job->lost);
	if (job != NULL)
		count_job(job);
	release_worker(worker, true);
}

/*
 * Receive a message, without waiting, and take it over.  *done is what the job
 * then says of its end.
 */
static shm_mq_result
take_message(Worker *worker, DoneFrame *volatile *done)
{
	if (worker->message_pos >= worker->message_size)
	{
		shm_mq_result result;
		Size		size;
		void	   *data;

		worker->message_pos = worker->message_size = 0;
		result = shm_mq_receive(worker->results, &size, &data, true);
		if (result != SHM_MQ_SUCCESS)
			return result;
		worker->message = data;
		worker->message_size = size;
	}

	/* A worker that has no job says nothing but why it ends: it gets no other. */
	if (worker->job == NULL)
		return SHM_MQ_DETACHED;
	*done = take_frames(worker);
	return SHM_MQ_SUCCESS;
}

/*
 * Receive what a worker has said, one message at a time, without waiting.
 * Returns false where it has said nothing.
 *
 * No error of this is the caller's: what could not be taken over is an error of
 * the worker's job.  A message that there is no memory for cannot be left out,
 * so the queue is given up, and the job goes on to its end unheard.
 */
static bool
pump_worker(Worker *worker)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	Job		   *job = worker->job;
	DoneFrame  *volatile done = NULL;
	volatile shm_mq_result result = SHM_MQ_SUCCESS;
	uint32		holdoff = InterruptHoldoffCount;
	uint32		cancel_holdoff = QueryCancelHoldoffCount;

	PG_TRY();
	{
		result = take_message(worker, &done);
	}
	PG_CATCH();
	{
		done = NULL;
		if (worker->message_size == 0)
			result = SHM_MQ_DETACHED;
		if (job != NULL)
			blame_job(job);
		else
			FlushErrorState();
		MemoryContextSwitchTo(oldcontext);
		/* Throwing an error has ended those. */
		InterruptHoldoffCount = holdoff;
		QueryCancelHoldoffCount = cancel_holdoff;
	}
	PG_END_TRY();

	if (result == SHM_MQ_WOULD_BLOCK)
		return false;
	if (result == SHM_MQ_DETACHED)
		worker_lost(worker);
	else if (done != NULL)
	{
		job->canceled = done->canceled;
		job->execution = done->execution;
		count_job(job);
		end_job(worker, done->stays);
	}
	return true;
}

/* Receive what any worker has said; false where there was nothing. */
static bool
pump_workers(void)
{
	dlist_mutable_iter iter;
	bool		progress = false;

	dlist_foreach_modify(iter, &workers)
		progress |= pump_worker(dlist_container(Worker, node, iter.cur));
	return progress;
}

/*
 * Receive what the workers have said so far.  One that never ceases to say
 * things does not keep us: no more is received than its queue holds.
 */
static void
catch_up(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &workers)
	{
		Worker	   *worker = dlist_container(Worker, node, iter.cur);
		Size		received = 0;

		while (pump_worker(worker) && worker->job != NULL &&
			   received < worker->queue_size)
		{
			CHECK_FOR_INTERRUPTS();
			received += worker->message_size;
		}
	}
	/* One that has said done may have said why it ends, behind that. */
	(void) pump_workers();
}

/* ----------------------------------------------------------------
 *		The launcher: settings
 * ----------------------------------------------------------------
 */

/*
 * Settings that a job does not take over.  Users are set apart from these, by
 * rules of their own; the transaction's properties are those of a transaction
 * which the job is not part of; the client of a job is its launcher, which
 * reads the database's encoding; and the seed is not a state but an action.
 */
static const char *const private_settings[] = {
	"client_encoding", "role", "seed", "session_authorization",
	"transaction_deferrable", "transaction_isolation", "transaction_read_only"
};

/*
 * Nor does it take over what a logical replication worker, in whose triggers it
 * is launched, has been made to work with: session_replication_role, an empty
 * search_path and the subscription's synchronous_commit.  That is how to apply
 * changes that were checked where they come from.  What the job writes, nobody
 * has checked; so it is done as in any session of its user, with triggers and
 * foreign keys.  Whatever is set there for a function is shared.
 */
static bool
is_shared_setting(struct config_generic *record)
{
	if (record->context < PGC_SU_BACKEND)
		return false;
	if (IsLogicalWorker() && record->source == PGC_S_OVERRIDE)
		return false;
	for (int i = 0; i < lengthof(private_settings); i++)
	{
		if (strcmp(record->name, private_settings[i]) == 0)
			return false;
	}
	return true;
}

/*
 * Collect all that a session can set: name, value as shown, value to set, the
 * context that may set it, whether it is a placeholder, and who has set it.
 * restore_settings() is the counterpart.  What is shown of a real number is not
 * all of it, so one that was set in the session shows nothing, and is always
 * set.  Of a placeholder, which no library has defined here, nobody knows yet
 * which context may set it: the one counts that has.
 *
 * The server has functions for this, SerializeGUCState() and
 * RestoreGUCState(), made for parallel workers.  They would also take along
 * the session's users, and make RESET in the job give the built-in defaults.
 */
static void
collect_settings(StringInfo settings)
{
	int			count;
	struct config_generic **records = all_settings(&count);

	for (int i = 0; i < count; i++)
	{
		struct config_generic *record = records[i];
		const char *shown;
		const char *value;
		char		exact[64];
		bool		is_placeholder = (record->flags & GUC_CUSTOM_PLACEHOLDER) != 0;
		Oid			role = setting_role(record);

		/* A placeholder that was reset has no value, not even an empty one. */
		if (!is_shared_setting(record) ||
			(is_placeholder && record->source == PGC_S_DEFAULT))
			continue;
		shown = GetConfigOption(record->name, true, false);
		if (shown == NULL)
			shown = "";
		appendBinaryStringInfo(settings, record->name,
							   strlen(record->name) + 1);
		value = shown;
		if (record->vartype == PGC_REAL)
		{
			snprintf(exact, sizeof(exact), "%.17g", real_setting(record));
			value = exact;
			if (record->source >= PGC_S_CLIENT)
				shown = "";
		}
		appendBinaryStringInfo(settings, shown, strlen(shown) + 1);
		appendBinaryStringInfo(settings, value, strlen(value) + 1);
		appendStringInfoChar(settings, (char) (is_placeholder ?
											   record->scontext :
											   record->context));
		appendStringInfoChar(settings, is_placeholder);
		appendBinaryStringInfo(settings, (char *) &role, sizeof(role));
	}
}

/*
 * Have the session's settings changed?  serialized is what they were the last
 * time, and is brought up to date.
 */
static bool
settings_changed(StringInfo serialized)
{
	static StringInfoData scratch = {0};
	Size		room = EstimateGUCStateSpace();
	bool		changed;

	if (scratch.data == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(&scratch);
		MemoryContextSwitchTo(oldcontext);
	}
	resetStringInfo(&scratch);
	enlargeStringInfo(&scratch, room);
	SerializeGUCState(room, scratch.data);
	scratch.len = sizeof(Size) + *(Size *) scratch.data;

	changed = scratch.len != serialized->len ||
		memcmp(scratch.data, serialized->data, scratch.len) != 0;
	if (changed)
	{
		resetStringInfo(serialized);
		appendBinaryStringInfo(serialized, scratch.data, scratch.len);
	}
	return changed;
}

/*
 * Collect the session's settings again where they have changed.
 */
static void
refresh_settings(void)
{
	if (!settings_changed(&settings_serialized))
		return;
	resetStringInfo(&settings);
	collect_settings(&settings);
	settings_generation++;
}

/* ----------------------------------------------------------------
 *		The launcher: waiting
 * ----------------------------------------------------------------
 */

/*
 * Collect the sessions that cannot go on before this one does: this one, and,
 * where it is itself a worker, its launcher if that is waiting for it, and so
 * on upwards.
 */
static List *
waiting_sessions(void)
{
	List	   *pids = list_make1_int(MyProcPid);
	WorkerShared *shared = my_shared;
	dsm_segment *attached = NULL;

	while (shared != NULL && pg_atomic_read_u32(&shared->launcher_waits) != 0)
	{
		dsm_handle	handle = shared->launcher_segment;

		pids = lappend_int(pids, (int) shared->launcher_pid);
		if (attached != NULL)
			dsm_detach(attached);
		attached = handle != 0 ? dsm_attach(handle) : NULL;
		shared = attached != NULL ? dsm_segment_address(attached) : NULL;
	}
	if (attached != NULL)
		dsm_detach(attached);
	return pids;
}

/*
 * Does a process wait, directly or through others, for a lock that is held by
 * a session which waits for that very process?
 *
 * The server's own deadlock check cannot see that: it knows of locks, not of
 * us waiting on a latch.
 */
static bool
waits_for_us(pid_t pid)
{
	List	   *ours = waiting_sessions();
	List	   *seen = list_make1_int((int) pid);
	ListCell   *lc;

	/* The list grows while we walk along it. */
	foreach(lc, seen)
	{
		ArrayType  *blockers;
		Datum	   *elems;
		int			nelems;

		blockers = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids,
														  Int32GetDatum(lfirst_int(lc))));
		deconstruct_array(blockers, INT4OID, sizeof(int32), true,
						  TYPALIGN_INT, &elems, NULL, &nelems);
		for (int i = 0; i < nelems; i++)
		{
			int			blocker = DatumGetInt32(elems[i]);

			if (list_member_int(ours, blocker))
				return true;
			seen = list_append_unique_int(seen, blocker);
		}
	}
	return false;
}

/* A wait may last for days, and looks once a second: nothing is left of a look. */
static bool
is_deadlocked(pid_t pid)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_background deadlock check",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	bool		result = waits_for_us(pid);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	return result;
}

/*
 * Sleep until the latch is set or one of two moments has come, 0 meaning
 * never.
 */
static void
sleep_until(TimestampTz deadline, TimestampTz check_at)
{
	TimestampTz until = deadline;
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;
	long		timeout = 0;

	if (until == 0 || (check_at != 0 && check_at < until))
		until = check_at;
	if (until != 0)
	{
		events |= WL_TIMEOUT;
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	}
	/* A job may wait for all who have one. */
	InvalidateCatalogSnapshotConditionally();
	(void) WaitLatch(MyLatch, events, timeout,
					 wait_event(&job_wait_event, "PgBackgroundJob"));
	ResetLatch(MyLatch);
}

/*
 * Do all of these jobs that run wait for what this session holds?  Then cancel
 * them, and return the first one.
 */
static Job *
find_deadlock(Job **set, int njobs)
{
	Job		   *first = NULL;

	for (int i = 0; i < njobs; i++)
	{
		if (set[i]->worker == NULL)
			continue;
		/* One that was canceled is about to end. */
		if (set[i]->cancel_requested || !is_deadlocked(set[i]->pid))
			return NULL;
		if (first == NULL)
			first = set[i];
	}

	for (int i = 0; first != NULL && i < njobs; i++)
	{
		if (set[i]->worker == NULL)
			continue;
		set[i]->deadlocked = true;
		cancel_job(set[i]);
	}
	return first;
}

/* Is the launcher asleep until just this job has ended? */
static void
set_launcher_waits(Job **set, int njobs, bool waits)
{
	if (njobs == 1 && set[0]->worker != NULL)
		pg_atomic_write_u32(&set[0]->worker->shared->launcher_waits, waits);
}

/*
 * Wait until one of some running jobs has said something, or has ended.
 * Returns false where the deadline has passed and none of them has ended; 0
 * means that there is none.
 *
 * What other jobs say meanwhile is received, too: one of them could be what
 * these wait for.
 *
 * Where there is no deadline and all of the jobs wait for what this session
 * holds, they are canceled; that is the caller's error, unless he says that it
 * is theirs.
 *
 * Errors: 40P01.  Whatever interrupts us.
 */
static bool
wait_for_progress(Job **set, int njobs, TimestampTz deadline,
				  bool deadlock_is_theirs)
{
	TimestampTz check_at = 0;
	Look		look = {.history = &launcher_looks, .limit = look_time};

	for (;;)
	{
		TimestampTz now;
		bool		progress;

		CHECK_FOR_INTERRUPTS();

		for (int i = 0; i < njobs; i++)
		{
			if (set[i]->worker == NULL || pump_worker(set[i]->worker))
			{
				look_ended(&look);
				return set[i]->worker == NULL || deadline == 0 ||
					GetCurrentTimestamp() < deadline;
			}
		}
		progress = pump_workers();
		if (!progress && look_again(&look))
			continue;

		now = GetCurrentTimestamp();
		if (deadline != 0 && now >= deadline)
			return false;
		if (deadline == 0 && check_at != 0 && now >= check_at)
		{
			Job		   *job = find_deadlock(set, njobs);

			if (job != NULL && !deadlock_is_theirs)
				ereport(ERROR,
						(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
						 errmsg("deadlock detected"),
						 errdetail("The background job with PID %d waits for a lock that this session holds, and this session waits for the job.",
								   (int) job->pid),
						 errhint("The job has been canceled. What waits for the snapshots of others, as CREATE INDEX CONCURRENTLY does, can be run by CALL pg_background_maintain().")));
			check_at = 0;
		}
		if (deadline == 0 && check_at == 0)
			check_at = TimestampTzPlusMilliseconds(now, DeadlockTimeout);
		if (progress)
			continue;

		set_launcher_waits(set, njobs, deadline == 0);
		sleep_until(deadline, check_at);
		set_launcher_waits(set, njobs, false);
	}
}

/* The moment that comes after so many milliseconds; 0, never, after -1. */
static TimestampTz
deadline_after(int timeout)
{
	return timeout < 0 ? 0 :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
}

/*
 * Wait until a job has ended, or until the deadline has passed; 0 means that
 * there is none.  Returns whether the job has ended.
 */
static bool
wait_for_job(Job *job, TimestampTz deadline)
{
	catch_up();
	while (job->worker != NULL && wait_for_progress(&job, 1, deadline, false))
		;
	return job->worker == NULL;
}

/* ----------------------------------------------------------------
 *		The launcher: jobs
 * ----------------------------------------------------------------
 */

/* What a session knows, its parallel workers do not. */
static void
check_not_parallel(void)
{
	PreventCommandIfParallelMode("pg_background functions");
}

static void
init_launcher(void)
{
	static const CatalogCache login_caches[] = {
		AUTHMEMMEMROLE, AUTHMEMROLEMEM, AUTHOID, DATABASEOID
	};
	HASHCTL		ctl;
	MemoryContext oldcontext;

	if (launcher_context != NULL)
		return;

	database_hash = GetSysCacheHashValue1(DATABASEOID,
										  ObjectIdGetDatum(MyDatabaseId));
	for (int i = 0; i < lengthof(login_caches); i++)
		CacheRegisterSyscacheCallback(login_caches[i], count_login_change,
									  (Datum) 0);
	before_shmem_exit(unpin_unsent, (Datum) 0);
	launcher_context = AllocSetContextCreate(TopMemoryContext, "pg_background",
											 ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(JobEntry);
	ctl.hcxt = launcher_context;
	oldcontext = MemoryContextSwitchTo(launcher_context);
	initStringInfo(&settings);
	initStringInfo(&settings_serialized);
	MemoryContextSwitchTo(oldcontext);
	jobs_by_cookie = hash_create("pg_background jobs", 64, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Make a cookie that nobody can guess, that is not 0 and not in use. */
static int64
make_cookie(void)
{
	int64		cookie;

	do
		cookie = strong_random();
	while (cookie == 0 ||
		   hash_search(jobs_by_cookie, &cookie, HASH_FIND, NULL) != NULL);
	return cookie;
}

/* What a caller says of the job that he launches */
typedef struct JobSpec
{
	text	   *sql;
	int32		queue_size;		/* 0 = pg_background.default_queue_size */
	text	   *label;			/* or NULL */
	bool		is_v1;
	bool		submitted;
	int			nparams;
	StringInfo	params;			/* see Request */
} JobSpec;

/*
 * Make a job of what a caller says, and of who and what the session is now.
 * It has no worker yet, and no handle.
 *
 * Errors: 22004 for no SQL string, 22023 for a queue size or a label out of
 * bounds, 25000 during a parallel operation, 42501 in a security-restricted
 * operation.
 */
static Job *
make_job(JobSpec *spec)
{
	MemoryContext context;
	MemoryContext oldcontext;
	Job		   *job;
	Request		request;
	Oid			login_user;
	uint32		connection_flags;
	int32		queue_size = spec->queue_size;

	check_not_parallel();
	if (spec->sql == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("SQL string must not be null")));
	if (queue_size == 0)
		queue_size = default_queue_size;
	if (queue_size < 0 || queue_size < shm_mq_minimum_size)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("queue size must be at least %zu bytes",
						shm_mq_minimum_size)));
	if (queue_size > max_queue_size)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("queue size must not exceed %d bytes", max_queue_size),
				 errhint("Only an administrator can allow more, with \"%s\".",
						 "pg_background.max_queue_size")));
	if (spec->label != NULL && VARSIZE_ANY_EXHDR(spec->label) >= LABEL_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("label must not exceed %d bytes", LABEL_SIZE - 1)));
	if (VARSIZE_ANY_EXHDR(spec->sql) + (spec->nparams > 0 ? spec->params->len : 0) >
		MAX_JOB_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("SQL string and parameters must not exceed %d bytes together",
						(int) MAX_JOB_SIZE)));
	memset(&request, 0, sizeof(request));
	login_user = choose_user(&request, &connection_flags);

	init_launcher();
	refresh_settings();
	context = AllocSetContextCreate(launcher_context, "pg_background job",
									ALLOCSET_SMALL_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	job = palloc0(sizeof(Job));
	job->cookie = make_cookie();
	job->context = context;
	job->progress_pct = -1;
	job->user_id = GetUserId();
	job->login_user = login_user;
	job->connection_flags = connection_flags;
	job->queue_size = queue_size;
	job->sql = text_to_cstring(spec->sql);
	if (spec->label != NULL)
		job->label = text_to_cstring(spec->label);
	job->is_v1 = spec->is_v1;
	job->submitted = spec->submitted;
	job->request = request;
	job->request.discard = spec->submitted;
	job->request.sql_size = strlen(job->sql) + 1;
	if (spec->nparams > 0)
	{
		initStringInfo(&job->params);
		appendBinaryStringInfo(&job->params, spec->params->data,
							   spec->params->len);
		job->request.nparams = spec->nparams;
		job->request.params_size = spec->params->len;
	}
	MemoryContextSwitchTo(oldcontext);
	return job;
}

/* Give a job its handle. */
static void
enter_job(Job *job)
{
	JobEntry   *entry = hash_search(jobs_by_cookie, &job->cookie, HASH_ENTER,
									NULL);

	entry->job = job;
	dlist_push_tail(&jobs, &job->node);
	job->launched_at = GetCurrentTimestamp();
}

/*
 * A process that has just started can have the PID of one that ended, of
 * which this session still has a job.  Where PIDs are the handles of both (v1),
 * the old one would be taken for the new one, so it is dropped.
 *
 * Errors: FATAL where the old job is of another user.  Then whoever uses the
 * old handle would get at a job of a user that he is not.
 */
static void
drop_stale_jobs(Job *job)
{
	dlist_mutable_iter iter;

	if (!job->is_v1)
		return;
	dlist_foreach_modify(iter, &jobs)
	{
		Job		   *stale = dlist_container(Job, node, iter.cur);

		if (stale == job || !stale->is_v1 || stale->pid != job->pid)
			continue;
		if (stale->user_id != job->user_id)
			ereport(FATAL,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("background worker with PID %d already exists",
							(int) job->pid)));
		forget_job(stale);
	}
}

/* Was a job submitted to start when the transaction commits? */
static bool
is_on_commit(Job *job)
{
	return job->settings != NULL;
}

/*
 * How many jobs of the session have a process?  Those that nobody has a handle
 * of do not count: they were detached, or started by a commit.
 */
static int
count_running_jobs(void)
{
	dlist_iter	iter;
	int			running = 0;

	dlist_foreach(iter, &workers)
	{
		Worker	   *worker = dlist_container(Worker, node, iter.cur);

		running += worker->job != NULL && worker->handle != NULL &&
			!worker->job->forgotten && !is_on_commit(worker->job);
	}
	return running;
}

/*
 * Make the worker leave that has waited longest for another job of its own
 * session, so that its slot becomes free; but none that has just begun to
 * wait, since its next job may be on its way.  Returns false where no other
 * session has a worker that waits or leaves.
 *
 * *leaving is the PID of one that leaves, 0 where none is known.  Until the
 * postmaster has seen it end, which frees the slot, no other is made to.
 */
static bool
dismiss_idle_worker(pid_t *leaving)
{
	pg_atomic_uint32 *handles = worker_segments();
	TimestampTz longest = GetCurrentTimestamp() -
		SPARE_IDLE_TIMEOUT * INT64CONST(1000);
	dsm_segment *chosen = NULL;
	bool		found = false;

	if (handles == NULL)
		return false;
	if (*leaving != 0)
	{
		if (kill(*leaving, 0) != 0)
			*leaving = 0;
		return true;
	}

	for (int i = 0; i < MaxBackends; i++)
	{
		dsm_handle	handle = pg_atomic_read_u32(&handles[i]);
		dsm_segment *segment;
		WorkerShared *shared;

		if (handle == 0 || dsm_find_mapping(handle) != NULL ||
			(segment = dsm_attach(handle)) == NULL)
			continue;
		shared = dsm_segment_address(segment);
		if (shared->head.magic == SEGMENT_MAGIC)
		{
			uint32		state = pg_atomic_read_u32(&shared->state);
			TimestampTz since = (TimestampTz) pg_atomic_read_u64(&shared->idle_since);

			if (state == WORKER_LEAVING)
				*leaving = shared->head.pid;
			found |= state == WORKER_READY || state == WORKER_LEAVING;
			if (state == WORKER_READY && since <= longest)
			{
				dsm_segment *other = chosen;

				longest = since;
				chosen = segment;
				segment = other;
			}
		}
		if (segment != NULL)
			dsm_detach(segment);
	}

	if (chosen != NULL)
	{
		WorkerShared *shared = dsm_segment_address(chosen);

		if (*leaving == 0 &&
			change_state(shared, WORKER_READY, WORKER_LEAVING))
		{
			shm_mq	   *queue = (shm_mq *) ((char *) shared + shared->request_queue);

			*leaving = shared->head.pid;
			SetLatch(&shm_mq_get_receiver(queue)->procLatch);
		}
		dsm_detach(chosen);
	}
	return found;
}

/*
 * Sleep until a worker of the session may have become free, or one of another
 * session; of the latter, nobody tells us.
 */
static void
wait_for_slot(TimestampTz deadline)
{
	TimestampTz look_at = deadline_after(10);

	if (deadline != 0)
		look_at = Min(look_at, deadline);
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													 look_at),
					 wait_event(&launch_wait_event, "PgBackgroundLaunch"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	(void) pump_workers();
	reap_workers();
}

/*
 * Give a job a worker: one that waits for a job, or else a new one.  Where
 * there is none to be had, wait for pg_background.launch_timeout; or return
 * false at once, if optional.  Workers that wait for a job have to leave, and
 * are given the time for it, but no more.
 *
 * Errors: 53000 where there is none in time, those of start_worker().
 */
static bool
acquire_worker(Job *job, bool optional)
{
	TimestampTz deadline = 0;
	TimestampTz grace = 0;
	pid_t		leaving = 0;

	for (;;)
	{
		bool		allowed = is_on_commit(job) ||
			count_running_jobs() < max_workers;

		release_outdated_workers();
		if (allowed && shares_worker(job) && claim_idle_worker(job))
			return true;
		if (allowed && shares_worker(job))
			make_room_for_idle();
		if (allowed && start_worker(job))
		{
			drop_stale_jobs(job);
			return true;
		}
		if (allowed)
			release_idle_workers(0);
		if (optional)
			return false;

		if (deadline == 0)
		{
			deadline = deadline_after(is_on_commit(job) ?
									  Max(launch_timeout, COMMIT_PATIENCE) :
									  launch_timeout);
			grace = deadline_after(DISMISS_GRACE);
		}
		if (allowed && (is_worker_leaving() || dismiss_idle_worker(&leaving)))
			deadline = Max(deadline, grace);
		if (GetCurrentTimestamp() >= deadline)
		{
			if (!allowed)
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
						 errmsg("too many background jobs of this session are running"),
						 errhint("Wait for some to end, or increase \"pg_background.max_workers\".")));
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not register background process"),
					 errdetail("No background worker slot is free."),
					 errhint("You might need to increase \"max_worker_processes\".")));
		}
		wait_for_slot(deadline);
	}
}

/* Let other sessions see what a worker is about to run. */
static void
publish_job(Job *job)
{
	WorkerShared *shared = job->worker->shared;
	char	   *preview = clip_text(job->sql, PREVIEW_SIZE);

	SpinLockAcquire(&shared->mutex);
	shared->info.launcher_user = GetSessionUserId();
	shared->info.user_id = job->user_id;
	shared->info.owner = OidIsValid(job->request.hold_user) ?
		job->request.hold_user : job->login_user;
	shared->info.launched_at = job->launched_at;
	strlcpy(shared->info.label, job->label != NULL ? job->label : "",
			LABEL_SIZE);
	strlcpy(shared->info.sql_preview, preview, PREVIEW_SIZE + 1);
	shared->info.progress_pct = -1;
	SpinLockRelease(&shared->mutex);
	pg_atomic_write_u32(&shared->discard, 0);
	pfree(preview);
}

/*
 * Hand a job to its worker.  The settings go along where they are not what
 * the worker was sent before.
 *
 * Nothing here fails but for want of memory.
 */
static void
send_request(Job *job)
{
	Worker	   *worker = job->worker;
	Request    *request = &job->request;
	StringInfo	sent = job->settings != NULL ? job->settings : &settings;
	shm_mq_iovec iov[4];

	if (job->settings != NULL ||
		worker->settings_generation != settings_generation)
		request->settings_size = sent->len;
	request->idle_timeout = shares_worker(job) ?
		choose_idle_timeout(worker) : -1;

	iov[0].data = (char *) request;
	iov[0].len = sizeof(Request);
	iov[1].data = sent->data;
	iov[1].len = request->settings_size;
	iov[2].data = job->sql;
	iov[2].len = request->sql_size;
	iov[3].data = job->params.data;
	iov[3].len = request->params_size;

	/* A worker that is gone is noticed when its results are received. */
	if (send_nowait(worker->requests, iov, 4, true) == SHM_MQ_WOULD_BLOCK)
		elog(ERROR, "request does not fit into its queue");
	worker->settings_generation =
		job->settings != NULL ? 0 : settings_generation;
	worker->sent = true;
	job->sent = true;
	stats.launched++;
}

/*
 * Launch a job: find a worker that waits for one, or start one, and hand it
 * the SQL string, the session's settings and what it must know of users.
 *
 * Returns NULL where it is optional and there is no worker to be had.
 *
 * Errors: those of make_job() and acquire_worker().
 */
static Job *
launch_job(JobSpec *spec, bool optional)
{
	Job		   *job = make_job(spec);
	volatile bool acquired = false;

	enter_job(job);
	PG_TRY();
	{
		catch_up();
		forget_unused_jobs();
		reap_workers();
		heed_lower_limit();
		acquired = acquire_worker(job, optional);
		if (acquired)
		{
			publish_job(job);
			/* The job may wait for all who have one, from its first moment. */
			InvalidateCatalogSnapshotConditionally();
			send_request(job);
		}
	}
	PG_CATCH();
	{
		forget_job(job);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (!acquired)
	{
		forget_job(job);
		return NULL;
	}
	if (message_level_is_interesting(DEBUG2))
	{
		HOLD_INTERRUPTS();
		elog(DEBUG2, "pg_background: launched worker pid=%d cookie=" INT64_FORMAT " queue_size=%d preview='%s'",
			 (int) job->pid, job->cookie, job->queue_size,
			 OidIsValid(job->request.hold_user) ? HELD_JOB_TEXT :
			 clip_text(job->sql, PREVIEW_SIZE));
		RESUME_INTERRUPTS();
	}
	return job;
}

/* Raise again what a job has raised, an error or a notice. */
static void
raise_message(Job *job, ErrorData *message)
{
	ErrorData	edata = *message;
	char	   *context = psprintf("background worker, pid %d", (int) job->pid);

	/* The server takes these for constants, and keeps no copies. */
	edata.filename = NULL;
	edata.funcname = NULL;
	edata.domain = NULL;

	/* A worker that ends does not end its launcher. */
	edata.elevel = Min(edata.elevel, ERROR);
	edata.context = edata.context != NULL ?
		psprintf("%s\n%s", edata.context, context) : context;

	/* The position is one in the job's string, not in the caller's. */
	if (edata.cursorpos > 0 && edata.internalquery == NULL)
	{
		edata.internalpos = edata.cursorpos;
		edata.internalquery = job->sql;
		edata.cursorpos = 0;
	}
	ThrowErrorData(&edata);
}

/* ----------------------------------------------------------------
 *		The launcher: jobs that start when the transaction commits
 *
 * All that can fail is done before the commit, while it can still fail the
 * transaction: the worker is there, and after the commit a message is put
 * into its queue.
 * ----------------------------------------------------------------
 */

/* Forget the pending jobs of a subtransaction, or all of them for 0. */
static void
forget_pending_jobs(SubTransactionId subxact)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &pending_jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (subxact == InvalidSubTransactionId || job->subxact == subxact)
			forget_job(job);
	}
}

static void
acquire_pending_worker(Job *job)
{
	JobEntry   *entry = hash_search(jobs_by_cookie, &job->cookie, HASH_ENTER,
									NULL);

	entry->job = job;
	(void) acquire_worker(job, false);
	job->launched_at = GetCurrentTimestamp();
	publish_job(job);
}

/*
 * Have a worker for each pending job.  While we wait for one, another may have
 * died, such as for want of the right to connect.
 *
 * Errors: those of acquire_worker(), and why a worker has died.
 */
static void
acquire_pending_workers(void)
{
	dlist_iter	iter;

	catch_up();
	dlist_foreach(iter, &pending_jobs)
		acquire_pending_worker(dlist_container(Job, node, iter.cur));

	dlist_foreach(iter, &pending_jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (job->worker == NULL)
			raise_message(job, job->error);
	}
}

/*
 * The transaction has committed.  Nothing here fails.
 *
 * Without a worker is what was submitted by somebody's commit callback that was
 * called after ours, in a transaction that has loaded this library only then.
 */
static void
start_pending_jobs(void)
{
	static ErrorData too_late = {
		.elevel = ERROR,
		.sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
		.message = "background job was submitted while its transaction was being committed"
	};
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &pending_jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		dlist_delete(&job->node);
		dlist_push_tail(&jobs, &job->node);
		job->subxact = InvalidSubTransactionId;
		if (job->worker != NULL)
		{
			send_request(job);
			continue;
		}
		job->error = &too_late;
		ereport(WARNING,
				(errcode(too_late.sqlerrcode),
				 errmsg("%s", too_late.message)));
	}
}

/* Are workers to be had at once for what is submitted now? */
static bool committing = false;

static void
pending_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (!dlist_is_empty(&pending_jobs))
				acquire_pending_workers();
			committing = true;
			break;
		case XACT_EVENT_COMMIT:
			committing = false;
			start_pending_jobs();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (!dlist_is_empty(&pending_jobs))
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has submitted background jobs to start on commit")));
			break;
		case XACT_EVENT_ABORT:
			committing = false;
			forget_pending_jobs(InvalidSubTransactionId);
			break;
		default:
			break;
	}
}

static void
pending_subxact_callback(SubXactEvent event, SubTransactionId subxact,
						 SubTransactionId parent, void *arg)
{
	dlist_iter	iter;

	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_pending_jobs(subxact);
	if (event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	dlist_foreach(iter, &pending_jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (job->subxact == subxact)
			job->subxact = parent;
	}
}

/*
 * Launch a job when the transaction commits, with the users and settings of
 * now.
 *
 * Errors: those of make_job(); at commit, those of acquire_worker().
 */
static void
launch_on_commit(JobSpec *spec)
{
	static bool registered = false;
	Job		   *job = make_job(spec);
	MemoryContext oldcontext = MemoryContextSwitchTo(job->context);

	job->settings = makeStringInfo();
	appendBinaryStringInfo(job->settings, settings.data, settings.len);
	MemoryContextSwitchTo(oldcontext);
	job->subxact = GetCurrentSubTransactionId();
	dlist_push_tail(&pending_jobs, &job->node);
	if (committing)
		acquire_pending_worker(job);

	if (!registered)
	{
		RegisterXactCallback(pending_xact_callback, NULL);
		RegisterSubXactCallback(pending_subxact_callback, NULL);
		registered = true;
	}
}

/* ----------------------------------------------------------------
 *		The launcher: what can be done with a job
 * ----------------------------------------------------------------
 */

/* May the current user see a job, and do with it what he likes? */
static bool
may_use_job(Job *job)
{
	return has_privs_of_role(GetUserId(), job->user_id);
}

static void
check_job_user(Job *job)
{
	if (!may_use_job(job))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for background worker with PID %d",
						(int) job->pid)));
}

/*
 * The job that a PID is the handle of, else the last one that was launched for
 * that process, or NULL.
 */
static Job *
find_job_of_pid(int32 pid)
{
	dlist_iter	iter;
	Job		   *last = NULL;

	dlist_reverse_foreach(iter, &jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (job->pid != pid || job->delivered)
			continue;
		if (job->is_v1)
			return job;
		if (last == NULL)
			last = job;
	}
	return last;
}

/*
 * Find the job that a PID (v1) is the handle of.
 *
 * Errors: 42704 where there is none, 42501 where it is another user's.
 */
static Job *
get_job_v1(int32 pid)
{
	Job		   *job;

	check_not_parallel();
	job = find_job_of_pid(pid);
	if (job == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("PID %d is not attached to this session", pid)));
	check_job_user(job);
	use_job(job);
	return job;
}

/* The job that a PID and a cookie are the handle of, or NULL. */
static Job *
find_job(int32 pid, int64 cookie)
{
	JobEntry   *entry = NULL;

	if (jobs_by_cookie != NULL)
		entry = hash_search(jobs_by_cookie, &cookie, HASH_FIND, NULL);
	return entry != NULL && entry->job->pid == pid && !entry->job->delivered ?
		entry->job : NULL;
}

/*
 * Find the job that a PID and a cookie (v2) are the handle of.
 *
 * Errors: as above, and 55000 where the PID is right and the cookie is not.
 */
static Job *
get_job_v2(int32 pid, int64 cookie)
{
	Job		   *job;

	check_not_parallel();
	job = find_job(pid, cookie);
	if (job == NULL)
	{
		(void) get_job_v1(pid);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cookie mismatch for PID %d", pid)));
	}
	check_job_user(job);
	use_job(job);
	return job;
}

static const char *
job_state(Job *job)
{
	if (job->worker != NULL)
	{
		uint32		state = pg_atomic_read_u32(&job->worker->shared->state);

		return state == WORKER_STARTING || state == WORKER_CLAIMED ?
			"starting" : "running";
	}
	if (job->error == NULL)
		return "stopped";
	return is_canceled(job) ? "canceled" : "error";
}

/*
 * Give a job that was asked to cancel so many milliseconds to end, and then
 * end its process, as pg_terminate_backend() would.
 *
 * Never SIGKILL: the postmaster would restart the whole cluster.
 */
static void
end_with_grace(Job *job, TimestampTz deadline)
{
	if (job->worker == NULL || wait_for_job(job, deadline))
		return;
	TerminateBackgroundWorker(job->worker->handle);
	signal_worker(job->worker, SIGTERM);
}

/* Keep a row that was read in a caller's tuplestore. */
static void
put_row(Tuplestorestate *store, MinimalTuple row)
{
	HeapTupleData tuple;

	tuple.t_len = row->t_len + MINIMAL_TUPLE_OFFSET;
	tuple.t_data = (HeapTupleHeader) ((char *) row - MINIMAL_TUPLE_OFFSET);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuplestore_puttuple(store, &tuple);
}

/*
 * Raise a notice of a job again, unless it was raised by an earlier reading.
 * number counts them from 1.  The context is reset.
 */
static void
raise_notice(Job *job, int64 number, SpoolScan *scan, MemoryContext context)
{
	MemoryContext oldcontext;

	if (number <= job->notices_raised)
		return;
	job->notices_raised = number;
	oldcontext = MemoryContextSwitchTo(context);
	raise_message(job, parse_message(scan->data, scan->size));
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(context);
}

/* Reading a job's result into a caller's tuplestore */
typedef struct Reader
{
	Job		   *job;
	SpoolScan	scan;
	TupleDesc	expected;
	Tuplestorestate *store;
	MemoryContext notice_context;
	bool		matches;		/* the rows at hand are what is expected */
	int64		notices;		/* how many we have come across */
} Reader;

/* Do what a frame of the result asks for. */
static void
read_frame(Reader *reader)
{
	SpoolScan  *scan = &reader->scan;
	TupleDesc	desc;
	uint32	   *versions;

	switch (scan->kind)
	{
		case FRAME_ROW:
			if (reader->matches)
				put_row(reader->store, (MinimalTuple) scan->data);
			break;
		case FRAME_ROW_DESCRIPTION:
			tuplestore_clear(reader->store);
			reader->job->consumed = false;
			parse_row_description(scan->data, scan->size, &desc, &versions);
			reader->matches = find_mismatch(desc, versions,
											reader->expected) < 0;
			break;
		case FRAME_NOTICE:
			raise_notice(reader->job, ++reader->notices, scan,
						 reader->notice_context);
			break;
		default:
			break;
	}
}

/*
 * The result of a job that returned no rows: one row a command, with its tag.
 *
 * Errors: 42804 where the caller's column list is not a single text column.
 */
static void
read_tags(Reader *reader)
{
	TupleDesc	expected = reader->expected;
	SpoolScan	scan;

	if (expected->natts != 1 || TupleDescAttr(expected, 0)->atttypid != TEXTOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("remote query did not return a result set, but result rowtype is not a single text column")));

	begin_scan(&scan, reader->job);
	while (next_frame(&scan))
	{
		Datum		value;
		bool		isnull = false;

		CHECK_FOR_INTERRUPTS();
		if (scan.kind != FRAME_COMMAND)
			continue;
		value = CStringGetTextDatum(((CommandFrame *) scan.data)->tag);
		tuplestore_putvalues(reader->store, expected, &value, &isnull);
		pfree(DatumGetPointer(value));
	}
}

/*
 * Read what a job has said so far.  Rows that the reader could take are not
 * kept any longer; those that he could not, can still be read.
 */
static void
read_spool(Reader *reader)
{
	while (next_frame(&reader->scan))
	{
		CHECK_FOR_INTERRUPTS();
		read_frame(reader);
	}
	if (reader->matches && reader->job->worker != NULL)
	{
		reader->job->consumed = true;
		reader->job->notices_raised -= reader->notices;
		reader->notices = 0;
		trim_spool(&reader->scan);
	}
}

/* Has a job that has ended well said all? */
static void
check_complete(Job *job)
{
	if (job->lost)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the result of the job with PID %d is incomplete",
						(int) job->pid),
				 errdetail("Its process was ended when the job had ended, before it had said all.")));
}

/*
 * Receive a job's whole result into its reader's tuplestore, and raise its
 * notices.  Where the job has failed, that is all, and its error is the
 * caller's to raise, whatever columns were expected.
 *
 * Errors: 57014 where the deadline passes, 0 meaning that there is none; those
 * of check_row_type() and read_tags(), after which the result can still be
 * read.
 */
static void
read_job(Job *job, ReturnSetInfo *rsinfo, TimestampTz deadline)
{
	Reader		reader = {
		.job = job,
		.expected = rsinfo->expectedDesc,
		.store = rsinfo->setResult
	};

	begin_scan(&reader.scan, job);
	reader.notice_context = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_background notice",
												  ALLOCSET_SMALL_SIZES);
	for (;;)
	{
		bool		ended = job->worker == NULL;

		read_spool(&reader);
		if (ended)
			break;
		if (!wait_for_progress(&job, 1, deadline, false))
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("canceling background job due to timeout")));
	}

	if (job->error != NULL)
		return;
	check_complete(job);
	if (job->desc != NULL)
		check_row_type(job, reader.expected);
	else
		read_tags(&reader);
}

/* ----------------------------------------------------------------
 *		The launcher: how SQL calls us
 *
 * A catalog can be of another version of this extension, or of one like it: it
 * says what arguments our functions get and what they return, and the server
 * believes it.  So each function checks that it is declared as it is written.
 *
 * Types are letters there: i int4, l int8, t text, b bool, d float8, z
 * timestamptz, o oid, j jsonb, v void, a text[], h an array of handles, w one of
 * outcomes, and * the rest as VARIADIC.  Of an argument, a capital letter says
 * that it may be null.  Of a result, (...) is a row with such columns, "r" the
 * rows that a caller asks for; S before it says that it is a set.
 * ----------------------------------------------------------------
 */

/* The columns of pg_background_outcome */
#define OUTCOME			"(iltbbblttttz)"
#define OUTCOME_COLUMNS	12

static bool is_row_of(TupleDesc desc, const char *columns);

/* Is this a type of arrays of such rows? */
static bool
is_array_of(Oid type, const char *columns)
{
	TupleDesc	desc;
	bool		result;

	type = get_element_type(type);
	if (!OidIsValid(type) || get_typtype(type) != TYPTYPE_COMPOSITE)
		return false;
	desc = lookup_rowtype_tupdesc(type, -1);
	result = is_row_of(desc, columns);
	ReleaseTupleDesc(desc);
	return result;
}

static bool
is_type(Oid type, char letter)
{
	switch (pg_tolower(letter))
	{
		case 'i':
			return type == INT4OID;
		case 'l':
			return type == INT8OID;
		case 't':
			return type == TEXTOID;
		case 'b':
			return type == BOOLOID;
		case 'd':
			return type == FLOAT8OID;
		case 'z':
			return type == TIMESTAMPTZOID;
		case 'o':
			return type == OIDOID;
		case 'j':
			return type == JSONBOID;
		case 'v':
			return type == VOIDOID;
		case 'r':
			return type == RECORDOID;
		case 'a':
			return type == TEXTARRAYOID;
		case '*':
			return type == ANYOID || type == TEXTARRAYOID;
		case 'h':
			return is_array_of(type, "(il)");
		case 'w':
			return is_array_of(type, OUTCOME);
		default:
			return false;
	}
}

/* Has a row just these columns? */
static bool
is_row_of(TupleDesc desc, const char *columns)
{
	if (columns[0] != '(' || desc->natts != strlen(columns) - 2)
		return false;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (attr->attisdropped || !is_type(attr->atttypid, columns[i + 1]))
			return false;
	}
	return true;
}

/* Is a function's result declared as it is written? */
static bool
is_result(Form_pg_proc proc, const char *result)
{
	TupleDesc	desc;

	if (proc->proretset != (result[0] == 'S'))
		return false;
	if (proc->proretset)
		result++;
	if (result[0] != '(')
		return is_type(proc->prorettype, result[0]);
	return get_func_result_type(proc->oid, NULL, &desc) == TYPEFUNC_COMPOSITE &&
		is_row_of(desc, result);
}

/* Are a function's arguments? */
static bool
are_arguments(Form_pg_proc proc, const char *args)
{
	if (proc->pronargs > strlen(args))
		return false;
	for (int i = 0; i < proc->pronargs; i++)
	{
		if (!is_type(proc->proargtypes.values[i], args[i]))
			return false;
	}
	return OidIsValid(proc->provariadic) == (strchr(args, '*') != NULL);
}

/*
 * Functions that were found to be declared as they are written, each at the
 * remainder of its OID; forgotten when a function or a row type may have changed.
 */
static Oid	checked_functions[64];

static void
forget_checked_functions(Datum arg, CatalogCache cache, uint32 hash)
{
	memset(checked_functions, 0, sizeof(checked_functions));
}

static void
forget_checked_types(Datum arg, Oid relation)
{
	memset(checked_functions, 0, sizeof(checked_functions));
}

static void
check_declaration(Oid function, int least, const char *args,
				  const char *result)
{
	static bool registered = false;
	HeapTuple	tuple;
	Form_pg_proc proc;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(PROCOID, forget_checked_functions,
									  (Datum) 0);
		CacheRegisterRelcacheCallback(forget_checked_types, (Datum) 0);
		registered = true;
	}

	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->pronargs < least || !are_arguments(proc, args) ||
		!is_result(proc, result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is not declared as this version of pg_background has it",
						format_procedure(function)),
				 errdetail("The catalog is that of another version."),
				 errhint("Run ALTER EXTENSION pg_background UPDATE, or install the library of the version that the catalog has.")));
	ReleaseSysCache(tuple);
	checked_functions[function % lengthof(checked_functions)] = function;
}

/*
 * Check that a function is declared as it is written, with at least so many of
 * its arguments, and not called with nulls where it takes none.
 *
 * Errors: 42P13, 22004.
 */
static void
check_call(FunctionCallInfo fcinfo, int least, const char *args,
		   const char *result)
{
	Oid			function = fcinfo->flinfo->fn_oid;

	if (checked_functions[function % lengthof(checked_functions)] != function)
		check_declaration(function, least, args, result);

	for (int i = 0; i < PG_NARGS() && args[i] != '*'; i++)
	{
		if (PG_ARGISNULL(i) && args[i] >= 'a' && args[i] <= 'z')
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d of %s must not be null", i + 1,
							format_procedure(function))));
	}
}

/*
 * Prepare to return a set: check that the caller can take one and has said
 * what columns it expects, and give him a tuplestore.
 *
 * Errors: 0A000.
 */
static ReturnSetInfo *
begin_set(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext oldcontext;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		!(rsinfo->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	if (rsinfo->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("function returning record called in context that cannot accept type record"),
				 errhint("Try calling the function in the FROM clause using a column definition list.")));

	oldcontext = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult =
		tuplestore_begin_heap(rsinfo->allowedModes & SFRM_Materialize_Random,
							  false, work_mem);
	rsinfo->setDesc = CreateTupleDescCopy(rsinfo->expectedDesc);
	MemoryContextSwitchTo(oldcontext);
	return rsinfo;
}

/* Raise a job's error again, and forget the job. */
static void
raise_job_error(Job *job)
{
	PG_TRY();
	{
		raise_message(job, job->error);
	}
	PG_CATCH();
	{
		forget_job(job);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* May the rows of a job be read? */
static void
check_readable(Job *job)
{
	if (job->submitted)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("results are disabled for PID %d (submitted via pg_background_submit_v2)",
						(int) job->pid)));
	if (job->consumed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("results for PID %d have already been consumed",
						(int) job->pid),
				 errdetail("Reading them was interrupted.")));
	if (job->being_read)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("results for PID %d are being read", (int) job->pid)));
}

/* The query that a result was delivered to */
typedef struct Delivery
{
	MemoryContextCallback callback;
	Job		   *job;
} Delivery;

/*
 * That query ends.  Where it has failed, nobody can tell what of the result has
 * come to its reader: the job has its handle again, and says that it is consumed.
 */
static void
end_delivery(void *arg)
{
	Job		   *job = ((Delivery *) arg)->job;

	if (!job->forgotten)
	{
		if (IsTransactionState())
			forget_job(job);
		else
		{
			job->delivered = false;
			job->consumed = true;
		}
	}
	unpin_job(job);
}

/*
 * A job's result is in its reader's tuplestore.  The job has no handle any more,
 * and is forgotten when the reader's query has ended.
 */
static void
deliver_job(Job *job, ReturnSetInfo *rsinfo)
{
	MemoryContext query_context = rsinfo->econtext->ecxt_per_query_memory;
	Delivery   *delivery = MemoryContextAlloc(query_context, sizeof(Delivery));

	delivery->callback.func = end_delivery;
	delivery->callback.arg = delivery;
	delivery->job = job;
	pin_job(job);
	job->delivered = true;
	drop_spool(&job->spool);
	MemoryContextRegisterResetCallback(query_context, &delivery->callback);
}

/*
 * Return the result of a job as a set, and forget the job.
 *
 * Errors: 0A000 where the job was submitted, 55000 where another reader has
 * taken rows, those of begin_set() and read_job(), the job's own.
 */
static Datum
return_result(FunctionCallInfo fcinfo, Job *job)
{
	ReturnSetInfo *rsinfo;

	check_readable(job);
	rsinfo = begin_set(fcinfo);
	read_job(job, rsinfo, 0);
	if (job->error != NULL)
		raise_job_error(job);
	deliver_job(job, rsinfo);
	return (Datum) 0;
}

/*
 * Make a value of the composite type that a function returns.
 *
 * Errors: 42804 where that was altered since check_call().
 */
static Datum
make_composite(FunctionCallInfo fcinfo, const char *columns, Datum *values,
			   bool *isnull)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		!is_row_of(desc, columns))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the result type of %s was altered",
						format_procedure(fcinfo->flinfo->fn_oid))));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
											 values, isnull));
}

/* Make a composite pg_background_handle of a job. */
static Datum
job_handle(FunctionCallInfo fcinfo, Job *job)
{
	Datum		values[2];
	bool		isnull[2] = {false, false};

	values[0] = Int32GetDatum((int32) job->pid);
	values[1] = Int64GetDatum(job->cookie);
	return make_composite(fcinfo, "(il)", values, isnull);
}

/* What a launch function is called with: SQL string, queue size, label. */
static JobSpec
launch_args(FunctionCallInfo fcinfo)
{
	JobSpec		spec = {0};

	spec.sql = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	spec.queue_size = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	if (PG_NARGS() > 2 && !PG_ARGISNULL(2))
		spec.label = PG_GETARG_TEXT_PP(2);
	return spec;
}

/*
 * Check a time that a caller gives, in milliseconds.  Below 0 counts as 0.
 *
 * Errors: 22023 past an hour, for what is named.
 */
static int
check_timeout(int32 timeout, const char *name)
{
	if (timeout > MAX_TIMEOUT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not exceed %d milliseconds",
						name, MAX_TIMEOUT)));
	return Max(timeout, 0);
}

/* ----------------------------------------------------------------
 *		SQL functions
 *
 * PIDs and cookies are handles; sizes are bytes, times milliseconds.  Unless
 * said otherwise, a function that takes a handle raises 42704 where the PID is
 * not one of this session's, 55000 where it is and the cookie is wrong, and
 * 42501 where the job is another user's.
 * ----------------------------------------------------------------
 */

/*
 * pg_background_launch(sql text, queue_size int4) returns int4
 *
 * Launch a job; its handle is the PID of its worker.
 *
 * Errors: those of launch_job().
 */
PG_FUNCTION_INFO_V1(pg_background_launch);
Datum
pg_background_launch(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	check_call(fcinfo, 2, "TI", "i");
	spec = launch_args(fcinfo);
	spec.is_v1 = true;
	PG_RETURN_INT32((int32) launch_job(&spec, false)->pid);
}

/*
 * pg_background_result(pid int4) returns setof record
 *
 * Wait for a job and return its rows, once.
 *
 * Errors: those of return_result().
 */
PG_FUNCTION_INFO_V1(pg_background_result);
Datum
pg_background_result(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 1, "i", "Sr");
	return return_result(fcinfo, get_job_v1(PG_GETARG_INT32(0)));
}

/*
 * pg_background_detach(pid int4) returns void
 *
 * Forget a job.  It goes on to its end, and its output is dropped.
 */
PG_FUNCTION_INFO_V1(pg_background_detach);
Datum
pg_background_detach(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 1, "i", "v");
	forget_job(get_job_v1(PG_GETARG_INT32(0)));
	PG_RETURN_VOID();
}

/* The job whose handle is a function's first two arguments */
static Job *
job_arg(FunctionCallInfo fcinfo)
{
	return get_job_v2(PG_GETARG_INT32(0), PG_GETARG_INT64(1));
}

/*
 * pg_background_launch_v2(sql text, queue_size int4 [, label text])
 * returns pg_background_handle
 *
 * Launch a job; its handle is the PID of its worker and a cookie.
 *
 * Errors: those of launch_job().
 */
PG_FUNCTION_INFO_V1(pg_background_launch_v2);
Datum
pg_background_launch_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	check_call(fcinfo, 2, "TIT", "(il)");
	spec = launch_args(fcinfo);
	return job_handle(fcinfo, launch_job(&spec, false));
}

/*
 * pg_background_submit_v2(sql text, queue_size int4 [, label text])
 * returns pg_background_handle
 *
 * Launch a job whose result is never read; the worker does not even send it.
 *
 * Errors: those of launch_job().
 */
PG_FUNCTION_INFO_V1(pg_background_submit_v2);
Datum
pg_background_submit_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	check_call(fcinfo, 2, "TIT", "(il)");
	spec = launch_args(fcinfo);
	spec.submitted = true;
	return job_handle(fcinfo, launch_job(&spec, false));
}

/*
 * pg_background_result_v2(pid int4, cookie int8) returns setof record
 *
 * Wait for a job and return its rows, once.
 *
 * Errors: those of return_result().
 */
PG_FUNCTION_INFO_V1(pg_background_result_v2);
Datum
pg_background_result_v2(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 2, "il", "Sr");
	return return_result(fcinfo, job_arg(fcinfo));
}

/*
 * pg_background_detach_v2(pid int4, cookie int8) returns void
 *
 * Forget a job.  It goes on to its end, and its output is dropped.
 */
PG_FUNCTION_INFO_V1(pg_background_detach_v2);
Datum
pg_background_detach_v2(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 2, "il", "v");
	forget_job(job_arg(fcinfo));
	PG_RETURN_VOID();
}

/*
 * pg_background_cancel_v2(pid int4, cookie int8) returns void
 *
 * Ask for a job to be canceled, and do not wait until it is.  Nothing happens
 * where it has ended.
 */
PG_FUNCTION_INFO_V1(pg_background_cancel_v2);
Datum
pg_background_cancel_v2(PG_FUNCTION_ARGS)
{
	Job		   *job;

	check_call(fcinfo, 2, "il", "v");
	job = job_arg(fcinfo);
	if (job->worker != NULL)
		cancel_job(job);
	PG_RETURN_VOID();
}

/*
 * pg_background_cancel_v2_grace(pid int4, cookie int8, grace_ms int4)
 * returns void
 *
 * Cancel a job; where it has not ended after so many milliseconds, end its
 * process.
 *
 * Errors: 22023 where the grace is longer than an hour.
 */
PG_FUNCTION_INFO_V1(pg_background_cancel_v2_grace);
Datum
pg_background_cancel_v2_grace(PG_FUNCTION_ARGS)
{
	Job		   *job;
	int			grace;

	check_call(fcinfo, 3, "ili", "v");
	grace = check_timeout(PG_GETARG_INT32(2), "grace period");
	job = job_arg(fcinfo);
	if (job->worker != NULL)
		cancel_job(job);
	end_with_grace(job, deadline_after(grace));
	PG_RETURN_VOID();
}

/*
 * pg_background_wait_v2(pid int4, cookie int8) returns void
 *
 * Wait until a job has ended, however it did.  Its result is kept.
 *
 * Errors: those of wait_for_progress().
 */
PG_FUNCTION_INFO_V1(pg_background_wait_v2);
Datum
pg_background_wait_v2(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 2, "il", "v");
	(void) wait_for_job(job_arg(fcinfo), 0);
	PG_RETURN_VOID();
}

/*
 * pg_background_wait_v2_timeout(pid int4, cookie int8, timeout_ms int4)
 * returns bool
 *
 * Wait until a job has ended or so many milliseconds have passed; say whether
 * it has ended.
 *
 * Errors: 22023 where the time is longer than an hour.
 */
PG_FUNCTION_INFO_V1(pg_background_wait_v2_timeout);
Datum
pg_background_wait_v2_timeout(PG_FUNCTION_ARGS)
{
	int			timeout;

	check_call(fcinfo, 3, "ili", "b");
	timeout = check_timeout(PG_GETARG_INT32(2), "timeout");
	PG_RETURN_BOOL(wait_for_job(job_arg(fcinfo), deadline_after(timeout)));
}

/* What pg_background_list_v2() returns; until 1.9, there was no label */
static const Oid list_types[] = {
	INT4OID, INT8OID, TIMESTAMPTZOID, OIDOID, INT4OID, TEXTOID, TEXTOID,
	TEXTOID, BOOLOID, TEXTOID
};

/* A text value, or NULL for no string */
static Datum
text_or_null(const char *string, bool *isnull)
{
	*isnull = string == NULL;
	return string == NULL ? (Datum) 0 : CStringGetTextDatum(string);
}

static void
list_job(Job *job, ReturnSetInfo *rsinfo)
{
	Datum		values[lengthof(list_types)];
	bool		isnull[lengthof(list_types)] = {0};
	char	   *message = job->error != NULL ? job->error->message : NULL;

	values[0] = Int32GetDatum((int32) job->pid);
	values[1] = Int64GetDatum(job->cookie);
	values[2] = TimestampTzGetDatum(job->launched_at);
	values[3] = ObjectIdGetDatum(job->user_id);
	values[4] = Int32GetDatum(job->queue_size);
	values[5] = CStringGetTextDatum(job_state(job));
	values[6] = CStringGetTextDatum(clip_text(job->sql, PREVIEW_SIZE));
	values[7] = text_or_null(message != NULL ?
							 clip_text(message, LAST_ERROR_SIZE) : NULL,
							 &isnull[7]);
	values[8] = BoolGetDatum(job->consumed);
	values[9] = text_or_null(job->label, &isnull[9]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
}

/*
 * pg_background_list_v2() returns setof record
 *
 * List the session's jobs that the current user may use, in the order of
 * launch, with or without their labels.
 *
 * Errors: 0A000 without a column definition list, 42804 with a wrong one.
 */
PG_FUNCTION_INFO_V1(pg_background_list_v2);
Datum
pg_background_list_v2(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo;
	int			natts;
	bool		matches;
	dlist_iter	iter;

	check_call(fcinfo, 0, "", "Sr");
	check_not_parallel();
	rsinfo = begin_set(fcinfo);
	natts = rsinfo->setDesc->natts;
	matches = natts == lengthof(list_types) ||
		natts == lengthof(list_types) - 1;
	for (int i = 0; matches && i < natts; i++)
		matches = TupleDescAttr(rsinfo->setDesc, i)->atttypid == list_types[i];
	if (!matches)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column definition list does not match what %s returns",
						"pg_background_list_v2()"),
				 errhint("Use (pid int4, cookie int8, launched_at timestamptz, user_id oid, queue_size int4, state text, sql_preview text, last_error text, consumed bool, label text).")));

	catch_up();
	dlist_foreach(iter, &jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (!job->delivered && may_use_job(job))
			list_job(job, rsinfo);
	}
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		SQL functions: outcomes
 * ----------------------------------------------------------------
 */

/* Of a job's last command, how many rows; null before it has completed one */
static Datum
row_count(Job *job, bool *isnull)
{
	*isnull = job->ncommands == 0;
	return Int64GetDatum(job->row_count);
}

static Datum
command_tag(Job *job, bool *isnull)
{
	return text_or_null(job->ncommands > 0 ? job->command_tag : NULL, isnull);
}

/*
 * pg_background_full_sql_v2(pid int4, cookie int8) returns text
 *
 * The whole SQL string of a job.
 */
PG_FUNCTION_INFO_V1(pg_background_full_sql_v2);
Datum
pg_background_full_sql_v2(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 2, "il", "t");
	PG_RETURN_TEXT_P(cstring_to_text(job_arg(fcinfo)->sql));
}

/*
 * pg_background_result_info_v2(pid int4, cookie int8)
 * returns pg_background_result_info
 *
 * What is known of a job's result, without reading it.
 */
PG_FUNCTION_INFO_V1(pg_background_result_info_v2);
Datum
pg_background_result_info_v2(PG_FUNCTION_ARGS)
{
	Job		   *job;
	Datum		values[4];
	bool		isnull[4] = {0};

	check_call(fcinfo, 2, "il", "(ltbb)");
	job = job_arg(fcinfo);
	catch_up();
	values[0] = row_count(job, &isnull[0]);
	values[1] = command_tag(job, &isnull[1]);
	values[2] = BoolGetDatum(job->worker == NULL);
	values[3] = BoolGetDatum(job->error != NULL);
	return make_composite(fcinfo, "(ltbb)", values, isnull);
}

/*
 * pg_background_error_info_v2(pid int4, cookie int8)
 * returns pg_background_error
 *
 * The error that ended a job, NULL where there was none.
 */
PG_FUNCTION_INFO_V1(pg_background_error_info_v2);
Datum
pg_background_error_info_v2(PG_FUNCTION_ARGS)
{
	ErrorData  *error;
	Datum		values[5];
	bool		isnull[5] = {0};
	Job		   *job;

	check_call(fcinfo, 2, "il", "(ttttt)");
	job = job_arg(fcinfo);
	catch_up();
	error = job->error;
	if (error == NULL)
		PG_RETURN_NULL();
	values[0] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[1] = text_or_null(error->message, &isnull[1]);
	values[2] = text_or_null(error->detail, &isnull[2]);
	values[3] = text_or_null(error->hint, &isnull[3]);
	values[4] = text_or_null(error->context, &isnull[4]);
	return make_composite(fcinfo, "(ttttt)", values, isnull);
}

/*
 * pg_background_get_progress_v2(pid int4, cookie int8)
 * returns pg_background_progress
 *
 * What a job has last said of its progress, NULL where it has said nothing.
 */
PG_FUNCTION_INFO_V1(pg_background_get_progress_v2);
Datum
pg_background_get_progress_v2(PG_FUNCTION_ARGS)
{
	Job		   *job;
	Datum		values[2];
	bool		isnull[2] = {0};

	check_call(fcinfo, 2, "il", "(it)");
	job = job_arg(fcinfo);
	catch_up();
	if (job->worker != NULL)
		keep_progress(job, job->worker->shared);
	if (job->progress_pct < 0)
		PG_RETURN_NULL();
	values[0] = Int32GetDatum(job->progress_pct);
	values[1] = text_or_null(job->progress_msg[0] != '\0' ?
							 job->progress_msg : NULL, &isnull[1]);
	return make_composite(fcinfo, "(it)", values, isnull);
}

/*
 * pg_background_progress(pct int4, msg text) returns void
 *
 * Called in a job: say how far it is.  Out of 0 to 100, pct counts as the
 * nearer of the two.
 *
 * Errors: 55000 outside of a job, 22004 for no percentage.
 */
PG_FUNCTION_INFO_V1(pg_background_progress);
Datum
pg_background_progress(PG_FUNCTION_ARGS)
{
	char	   *message = "";

	check_call(fcinfo, 2, "IT", "v");
	if (my_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("progress can be reported in a background job only")));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("percentage must not be null")));
	if (!PG_ARGISNULL(1))
		message = clip_text(text_to_cstring(PG_GETARG_TEXT_PP(1)),
							PROGRESS_SIZE - 1);

	SpinLockAcquire(&my_shared->mutex);
	my_shared->info.progress_pct = Max(0, Min(100, PG_GETARG_INT32(0)));
	strlcpy(my_shared->info.progress_msg, message, PROGRESS_SIZE);
	SpinLockRelease(&my_shared->mutex);
	PG_RETURN_VOID();
}

/*
 * What became of a job: the SQLSTATE and the message of its error; or else, as
 * the SQL standard has it, of class 01 where it has completed with warnings.
 */
static Datum
job_sqlstate(Job *job, bool *isnull)
{
	if (job->error != NULL)
		return text_or_null(unpack_sql_state(job->error->sqlerrcode), isnull);
	return text_or_null(job->warnings > 0 ?
						unpack_sql_state(ERRCODE_WARNING) : NULL, isnull);
}

static Datum
job_message(Job *job, bool *isnull)
{
	if (job->error != NULL)
		return text_or_null(job->error->message, isnull);
	if (job->warnings <= 1)
		return text_or_null(job->last_warning, isnull);
	return text_or_null(psprintf("%s (the last of " INT64_FORMAT " warnings)",
								 job->last_warning, job->warnings), isnull);
}

/* Fill in what became of a job; of a NULL job, nothing is known. */
static void
job_outcome(Job *job, Datum *values, bool *isnull)
{
	ErrorData  *error;

	for (int i = 2; i < OUTCOME_COLUMNS; i++)
		isnull[i] = true;
	if (job == NULL)
	{
		values[2] = CStringGetTextDatum("unknown");
		isnull[2] = false;
		return;
	}

	error = job->error;
	use_job(job);
	memset(isnull, 0, OUTCOME_COLUMNS * sizeof(bool));
	values[0] = Int32GetDatum((int32) job->pid);
	values[1] = Int64GetDatum(job->cookie);
	values[2] = CStringGetTextDatum(job_state(job));
	values[3] = BoolGetDatum(job->consumed);
	values[4] = BoolGetDatum(job->worker == NULL);
	values[5] = BoolGetDatum(error != NULL);
	values[6] = row_count(job, &isnull[6]);
	values[7] = command_tag(job, &isnull[7]);
	values[8] = job_sqlstate(job, &isnull[8]);
	values[9] = job_message(job, &isnull[9]);
	values[10] = text_or_null(job->label, &isnull[10]);
	values[11] = TimestampTzGetDatum(job->launched_at);
}

/* The job of a handle, NULL where there is none that the user may use. */
static Job *
look_up_job(int32 pid, int64 cookie)
{
	Job		   *job = find_job(pid, cookie);

	return job != NULL && may_use_job(job) ? job : NULL;
}

/* What became of the job whose handle a function gets. */
static void
outcome_arg(FunctionCallInfo fcinfo, Datum *values, bool *isnull)
{
	Job		   *job = NULL;

	catch_up();
	for (int i = 0; i < 2; i++)
	{
		isnull[i] = PG_ARGISNULL(i);
		values[i] = isnull[i] ? (Datum) 0 : PG_GETARG_DATUM(i);
	}
	if (!isnull[0] && !isnull[1])
		job = look_up_job(PG_GETARG_INT32(0), PG_GETARG_INT64(1));
	job_outcome(job, values, isnull);
}

/*
 * pg_background_outcome_v2(p_pid int4, p_cookie int8)
 * returns pg_background_outcome
 *
 * What became of a job.  Never raises an error: the state of what is not a
 * handle of this user is "unknown".
 */
PG_FUNCTION_INFO_V1(pg_background_outcome_v2);
Datum
pg_background_outcome_v2(PG_FUNCTION_ARGS)
{
	Datum		values[OUTCOME_COLUMNS];
	bool		isnull[OUTCOME_COLUMNS] = {0};

	check_call(fcinfo, 2, "IL", OUTCOME);
	outcome_arg(fcinfo, values, isnull);
	return make_composite(fcinfo, OUTCOME, values, isnull);
}

/* to_jsonb() of a row */
static Datum
row_to_jsonb(Datum row)
{
	FmgrInfo	flinfo;
	Node	   *arg = (Node *) makeNullConst(RECORDOID, -1, InvalidOid);

	fmgr_info(F_TO_JSONB, &flinfo);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(arg), InvalidOid,
											 InvalidOid, COERCE_EXPLICIT_CALL),
					   &flinfo);
	return FunctionCall1(&flinfo, row);
}

/*
 * pg_background_status_v2(p_pid int4, p_cookie int8) returns jsonb
 *
 * The same as pg_background_outcome_v2(), as jsonb.
 */
PG_FUNCTION_INFO_V1(pg_background_status_v2);
Datum
pg_background_status_v2(PG_FUNCTION_ARGS)
{
	static const char *const names[OUTCOME_COLUMNS] = {
		"pid", "cookie", "state", "consumed", "completed", "has_error",
		"row_count", "command_tag", "sqlstate", "error_message", "label",
		"launched_at"
	};
	static const Oid types[OUTCOME_COLUMNS] = {
		INT4OID, INT8OID, TEXTOID, BOOLOID, BOOLOID, BOOLOID, INT8OID,
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID
	};
	TupleDesc	desc = CreateTemplateTupleDesc(OUTCOME_COLUMNS);
	Datum		values[OUTCOME_COLUMNS];
	bool		isnull[OUTCOME_COLUMNS] = {0};

	check_call(fcinfo, 2, "IL", "j");
	for (int i = 0; i < OUTCOME_COLUMNS; i++)
		TupleDescInitEntry(desc, i + 1, names[i], types[i], -1, 0);
	finish_tuple_desc(desc);
	outcome_arg(fcinfo, values, isnull);
	return row_to_jsonb(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
														  values, isnull)));
}

/*
 * pg_background_stats_v2() returns pg_background_stats
 *
 * What became of the session's jobs.  Each one launched is in one of the
 * other counts.
 */
PG_FUNCTION_INFO_V1(pg_background_stats_v2);
Datum
pg_background_stats_v2(PG_FUNCTION_ARGS)
{
	Datum		values[7];
	bool		isnull[7] = {0};

	check_call(fcinfo, 0, "", "(llllidi)");
	catch_up();
	values[0] = Int64GetDatum(stats.launched);
	values[1] = Int64GetDatum(stats.completed);
	values[2] = Int64GetDatum(stats.failed);
	values[3] = Int64GetDatum(stats.canceled);
	values[4] = Int32GetDatum((int32) (stats.launched - stats.completed -
									   stats.failed - stats.canceled));
	values[5] = Float8GetDatum(stats.completed > 0 ?
							   stats.execution / 1000.0 / stats.completed : 0);
	values[6] = Int32GetDatum(max_workers);
	return make_composite(fcinfo, "(llllidi)", values, isnull);
}

/* ----------------------------------------------------------------
 *		SQL functions: many jobs at once
 * ----------------------------------------------------------------
 */

/* Forget those of the user's jobs that have ended, or all; say how many. */
static int
forget_jobs(bool running_too)
{
	dlist_mutable_iter iter;
	int			count = 0;

	check_not_parallel();
	catch_up();
	dlist_foreach_modify(iter, &jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (job->delivered || !may_use_job(job) ||
			(job->worker != NULL && !running_too))
			continue;
		forget_job(job);
		count++;
	}
	return count;
}

/*
 * DISCARD ALL gives the session to another client, who must not have its jobs:
 * they are forgotten.  Its workers may stay, they were reset.
 */
static void
discard_all(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &jobs)
		forget_job(dlist_container(Job, node, iter.cur));
	memset(&stats, 0, sizeof(stats));
	dlist_foreach_modify(iter, &workers)
		stats.launched += dlist_container(Worker, node, iter.cur)->job != NULL;
}

/* The server runs a command that is no query. */
static void
run_utility(PlannedStmt *pstmt, const char *sql, bool keep_tree,
			ProcessUtilityContext context, ParamListInfo params,
			QueryEnvironment *environment, DestReceiver *receiver,
			QueryCompletion *qc)
{
	bool		discards_all = IsA(pstmt->utilityStmt, DiscardStmt) &&
		((DiscardStmt *) pstmt->utilityStmt)->target == DISCARD_ALL;

	(next_utility_hook != NULL ? next_utility_hook : standard_ProcessUtility)
		(pstmt, sql, keep_tree, context, params, environment, receiver, qc);
	if (discards_all)
		discard_all();
}

/*
 * pg_background_detach_all_v2() returns int4
 *
 * Forget all jobs of the user, and say how many.  They go on to their ends.
 */
PG_FUNCTION_INFO_V1(pg_background_detach_all_v2);
Datum
pg_background_detach_all_v2(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 0, "", "i");
	PG_RETURN_INT32(forget_jobs(true));
}

/*
 * pg_background_purge_v2() returns int4
 *
 * Forget the user's jobs that have ended, and say how many.
 */
PG_FUNCTION_INFO_V1(pg_background_purge_v2);
Datum
pg_background_purge_v2(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 0, "", "i");
	PG_RETURN_INT32(forget_jobs(false));
}

/*
 * Cancel the user's running jobs whose label is like a pattern, or all for
 * NULL.  Where grace is positive, give them so many milliseconds, together.
 * Returns how many there were.
 */
static int
cancel_jobs(text *pattern, int grace)
{
	List	   *canceled = NIL;
	TimestampTz deadline = deadline_after(grace);
	dlist_iter	iter;
	ListCell   *lc;

	check_not_parallel();
	catch_up();
	dlist_foreach(iter, &jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (job->worker == NULL || !may_use_job(job))
			continue;
		if (pattern != NULL &&
			(job->label == NULL ||
			 !DatumGetBool(DirectFunctionCall2Coll(textlike, DEFAULT_COLLATION_OID,
												   CStringGetTextDatum(job->label),
												   PointerGetDatum(pattern)))))
			continue;
		cancel_job(job);
		canceled = lappend(canceled, job);
	}

	if (grace > 0)
	{
		foreach(lc, canceled)
			end_with_grace(lfirst(lc), deadline);
	}
	return list_length(canceled);
}

/*
 * pg_background_cancel_all_v2() returns int4
 *
 * Ask for all running jobs of the user to be canceled, and say how many.
 */
PG_FUNCTION_INFO_V1(pg_background_cancel_all_v2);
Datum
pg_background_cancel_all_v2(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 0, "", "i");
	PG_RETURN_INT32(cancel_jobs(NULL, 0));
}

/*
 * pg_background_cancel_by_label_v2(pattern text, grace_ms int4) returns int4
 *
 * Ask for the user's running jobs to be canceled whose label is LIKE the
 * pattern, and say how many.  Where grace_ms is positive, those that have not
 * ended after so many milliseconds have their processes ended.
 *
 * Errors: 22004 for no pattern, 22023 where the grace is longer than an hour.
 */
PG_FUNCTION_INFO_V1(pg_background_cancel_by_label_v2);
Datum
pg_background_cancel_by_label_v2(PG_FUNCTION_ARGS)
{
	check_call(fcinfo, 2, "TI", "i");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("pattern must not be null")));
	PG_RETURN_INT32(cancel_jobs(PG_GETARG_TEXT_PP(0),
								PG_ARGISNULL(1) ? 0 :
								check_timeout(PG_GETARG_INT32(1),
											  "grace period")));
}

/* A time limit that a caller gives for waiting: none for 0 or NULL. */
static TimestampTz
wait_limit(FunctionCallInfo fcinfo, int arg)
{
	int			timeout = 0;

	if (!PG_ARGISNULL(arg))
		timeout = check_timeout(PG_GETARG_INT32(arg), "timeout");
	return timeout == 0 ? 0 : deadline_after(timeout);
}

/* A handle that a caller gives, as one element of an array */
typedef struct Handle
{
	int32		pid;
	int64		cookie;
	bool		isnull;
} Handle;

static Handle *
handle_args(FunctionCallInfo fcinfo, int arg, int *count)
{
	ArrayType  *array;
	Datum	   *elems;
	bool	   *nulls;
	Handle	   *handles;

	*count = 0;
	if (PG_ARGISNULL(arg))
		return NULL;
	array = PG_GETARG_ARRAYTYPE_P(arg);
	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_DOUBLE,
					  &elems, &nulls, count);
	handles = palloc0(Max(*count, 1) * sizeof(Handle));
	for (int i = 0; i < *count; i++)
	{
		HeapTupleHeader tuple;
		Datum		pid;
		Datum		cookie;
		bool		pid_isnull;
		bool		cookie_isnull;

		handles[i].isnull = nulls[i];
		if (nulls[i])
			continue;
		tuple = DatumGetHeapTupleHeader(elems[i]);
		pid = GetAttributeByNum(tuple, 1, &pid_isnull);
		cookie = GetAttributeByNum(tuple, 2, &cookie_isnull);
		handles[i].isnull = pid_isnull || cookie_isnull;
		/* Where int8 is passed by reference, there is nothing to look at. */
		handles[i].pid = pid_isnull ? 0 : DatumGetInt32(pid);
		handles[i].cookie = cookie_isnull ? 0 : DatumGetInt64(cookie);
	}
	return handles;
}

/*
 * pg_background_drain_v2(handles pg_background_handle[], timeout_ms int4)
 * returns setof pg_background_outcome
 *
 * Wait until all of some jobs have ended, or so many milliseconds have passed,
 * 0 meaning as long as it takes; return their outcomes in the order given.
 *
 * Errors: 22023 where the time is longer than an hour, those of
 * wait_for_progress().
 */
PG_FUNCTION_INFO_V1(pg_background_drain_v2);
Datum
pg_background_drain_v2(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo;
	TimestampTz deadline;
	int			count;
	Handle	   *handles;

	check_call(fcinfo, 2, "HI", "S" OUTCOME);
	check_not_parallel();
	rsinfo = begin_set(fcinfo);
	deadline = wait_limit(fcinfo, 1);
	handles = handle_args(fcinfo, 0, &count);
	for (int i = 0; i < count; i++)
	{
		Job		   *job = look_up_job(handles[i].pid, handles[i].cookie);

		if (job != NULL)
			(void) wait_for_job(job, deadline);
	}

	for (int i = 0; i < count; i++)
	{
		Datum		values[OUTCOME_COLUMNS];
		bool		isnull[OUTCOME_COLUMNS] = {0};

		values[0] = Int32GetDatum(handles[i].pid);
		values[1] = Int64GetDatum(handles[i].cookie);
		isnull[0] = isnull[1] = handles[i].isnull;
		job_outcome(look_up_job(handles[i].pid, handles[i].cookie),
					values, isnull);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
							 values, isnull);
	}
	return (Datum) 0;
}

/* Of some jobs, the first one that has ended, NULL where none has. */
static Job *
first_to_end(Job **set, int njobs)
{
	Job		   *first = NULL;

	for (int i = 0; i < njobs; i++)
	{
		if (set[i]->worker == NULL &&
			(first == NULL || set[i]->end_number < first->end_number))
			first = set[i];
	}
	return first;
}

/*
 * pg_background_wait_any_v2(handles pg_background_handle[], timeout_ms int4)
 * returns pg_background_handle
 *
 * Wait until one of some jobs has ended, and return its handle; NULL where so
 * many milliseconds have passed before, 0 meaning as long as it takes, or
 * where there are no handles.
 *
 * Errors: 22023 where the time is longer than an hour, those of get_job_v2()
 * and wait_for_progress().
 */
PG_FUNCTION_INFO_V1(pg_background_wait_any_v2);
Datum
pg_background_wait_any_v2(PG_FUNCTION_ARGS)
{
	TimestampTz deadline;
	int			count;
	Handle	   *handles;
	Job		  **set;
	Job		   *ended;
	int			njobs = 0;

	check_call(fcinfo, 2, "HI", "(il)");
	check_not_parallel();
	deadline = wait_limit(fcinfo, 1);
	handles = handle_args(fcinfo, 0, &count);
	set = palloc(Max(count, 1) * sizeof(Job *));
	for (int i = 0; i < count; i++)
	{
		if (!handles[i].isnull)
			set[njobs++] = get_job_v2(handles[i].pid, handles[i].cookie);
	}
	if (njobs == 0)
		PG_RETURN_NULL();

	catch_up();
	while ((ended = first_to_end(set, njobs)) == NULL &&
		   wait_for_progress(set, njobs, deadline, false))
		;
	if (ended == NULL)
		PG_RETURN_NULL();
	return job_handle(fcinfo, ended);
}

/* ----------------------------------------------------------------
 *		SQL functions: launch, wait and forget in one call
 * ----------------------------------------------------------------
 */

/* The columns of pg_background_run_result, see check_call() */
#define RUN_RESULT	"(ibbbltttl)"

/* How long a job that has run into its caller's time-out may take to end */
#define RUN_GRACE	1000

/* Cancel a job that nobody will have a handle of, and forget it. */
static void
abandon_job(Job *job)
{
	if (job->worker != NULL)
		cancel_job(job);
	forget_job(job);
}

/* Milliseconds from the launch of a job until now */
static int64
elapsed_since_launch(Job *job)
{
	return (GetCurrentTimestamp() - job->launched_at) / 1000;
}

/*
 * Launch a job, wait for it until the deadline, 0 meaning as long as it takes,
 * and return a pg_background_run_result.  A job that takes longer is canceled.
 */
static Datum
run_job_now(FunctionCallInfo fcinfo, JobSpec *spec, TimestampTz deadline)
{
	Job		   *job;
	volatile bool timed_out = false;
	Datum		values[9];
	bool		isnull[9] = {0};

	spec->submitted = true;
	job = launch_job(spec, false);
	PG_TRY();
	{
		if (!wait_for_job(job, deadline))
		{
			timed_out = true;
			cancel_job(job);
			end_with_grace(job, deadline_after(RUN_GRACE));
			(void) wait_for_job(job, 0);
		}
	}
	PG_CATCH();
	{
		abandon_job(job);
		PG_RE_THROW();
	}
	PG_END_TRY();

	values[0] = Int32GetDatum((int32) job->pid);
	values[1] = BoolGetDatum(!timed_out);
	values[2] = BoolGetDatum(timed_out);
	values[3] = BoolGetDatum(job->error != NULL);
	values[4] = row_count(job, &isnull[4]);
	values[5] = command_tag(job, &isnull[5]);
	values[6] = job_sqlstate(job, &isnull[6]);
	values[7] = job_message(job, &isnull[7]);
	values[8] = Int64GetDatum(elapsed_since_launch(job));
	forget_job(job);
	return make_composite(fcinfo, RUN_RESULT, values, isnull);
}

/* What a run function is called with: SQL string, queue size, time, label. */
static JobSpec
run_args(FunctionCallInfo fcinfo)
{
	JobSpec		spec = {0};

	spec.sql = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	spec.queue_size = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	spec.label = PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3);
	return spec;
}

/*
 * pg_background_run_v2(sql text, queue_size int4, timeout_ms int4, label text)
 * returns pg_background_run_result
 *
 * Launch a job, wait for it, say what became of it and forget it.  A job that
 * takes longer than timeout_ms, 0 meaning as long as it takes, is canceled.
 *
 * Errors: 22023 where the time is longer than an hour, those of launch_job()
 * and wait_for_progress(); the job's own is part of the result.
 */
PG_FUNCTION_INFO_V1(pg_background_run_v2);
Datum
pg_background_run_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	check_call(fcinfo, 4, "TIIT", RUN_RESULT);
	spec = run_args(fcinfo);
	return run_job_now(fcinfo, &spec, wait_limit(fcinfo, 2));
}

/*
 * pg_background_run_query_v2(sql text, queue_size int4, timeout_ms int4,
 *							  label text, col_def text)
 * returns setof record
 *
 * Launch a job, return its rows and forget it.  col_def is not needed, and
 * accepted for those who give it.
 *
 * Errors: 57014 where it takes longer than timeout_ms, and is canceled; those
 * of launch_job(), begin_set() and read_job(); the job's own.
 */
PG_FUNCTION_INFO_V1(pg_background_run_query_v2);
Datum
pg_background_run_query_v2(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo;
	TimestampTz deadline;
	JobSpec		spec;
	Job		   *job;

	check_call(fcinfo, 4, "TIITT", "Sr");
	rsinfo = begin_set(fcinfo);
	deadline = wait_limit(fcinfo, 2);
	spec = run_args(fcinfo);
	job = launch_job(&spec, false);
	PG_TRY();
	{
		read_job(job, rsinfo, deadline);
	}
	PG_CATCH();
	{
		abandon_job(job);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (job->error != NULL)
		raise_job_error(job);
	forget_job(job);
	return (Datum) 0;
}

/*
 * pg_background_submit_on_commit_v2(sql text, queue_size int4, label text)
 * returns void
 *
 * Launch a job when the transaction commits; never, where it or the
 * subtransaction is rolled back.  Its rows are never read.
 *
 * Errors: those of launch_on_commit().
 */
PG_FUNCTION_INFO_V1(pg_background_submit_on_commit_v2);
Datum
pg_background_submit_on_commit_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	check_call(fcinfo, 2, "TIT", "v");
	spec = launch_args(fcinfo);
	spec.submitted = true;
	launch_on_commit(&spec);
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		SQL functions: parameters
 * ----------------------------------------------------------------
 */

/*
 * What a function with parameters is called with: SQL string, and VARIADIC "any",
 * which is serialized.  Values that are kept elsewhere are fetched: the job cannot
 * see what this transaction can.
 *
 * Errors: 0A000 for an anonymous record.
 */
static void
params_args(FunctionCallInfo fcinfo, JobSpec *spec)
{
	Datum	   *values;
	Oid		   *types;
	bool	   *nulls;
	StringInfo	params = makeStringInfo();

	spec->sql = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	spec->nparams = Max(extract_variadic_args(fcinfo, 1, true,
											  &values, &types, &nulls), 0);
	spec->params = params;
	for (int i = 0; i < spec->nparams; i++)
	{
		int16		typlen;
		bool		typbyval;
		Size		size;
		char	   *start;

		if (is_anonymous(types[i]))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("parameter $%d is an anonymous record", i + 1),
					 errhint("Cast it to a named composite type.")));
		get_typlenbyval(types[i], &typlen, &typbyval);
		if (!nulls[i] && typlen == -1)
			values[i] = PointerGetDatum(detoast_external_attr((struct varlena *) DatumGetPointer(values[i])));

		size = datumEstimateSpace(values[i], nulls[i], typbyval, typlen);
		appendBinaryStringInfo(params, (char *) &types[i], sizeof(Oid));
		enlargeStringInfo(params, size);
		start = params->data + params->len;
		datumSerialize(values[i], nulls[i], typbyval, typlen, &start);
		params->len += size;
	}
}

/*
 * pg_background_launch_params_v2(sql text, VARIADIC params "any")
 * returns pg_background_handle
 *
 * Launch a job of a single statement, with parameters $1, $2 and so on, which
 * are sent as they are.
 *
 * Errors: those of launch_job() and params_args().
 */
PG_FUNCTION_INFO_V1(pg_background_launch_params_v2);
Datum
pg_background_launch_params_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec = {0};

	check_call(fcinfo, 2, "T*", "(il)");
	params_args(fcinfo, &spec);
	return job_handle(fcinfo, launch_job(&spec, false));
}

/*
 * pg_background_submit_params_v2(sql text, VARIADIC params "any")
 * returns pg_background_handle
 *
 * The same, where the result is never read.
 */
PG_FUNCTION_INFO_V1(pg_background_submit_params_v2);
Datum
pg_background_submit_params_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec = {0};

	check_call(fcinfo, 2, "T*", "(il)");
	spec.submitted = true;
	params_args(fcinfo, &spec);
	return job_handle(fcinfo, launch_job(&spec, false));
}

/*
 * pg_background_run_params_v2(sql text, VARIADIC params "any")
 * returns pg_background_run_result
 *
 * The same, and wait for the job, say what became of it and forget it.
 */
PG_FUNCTION_INFO_V1(pg_background_run_params_v2);
Datum
pg_background_run_params_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec = {0};

	check_call(fcinfo, 2, "T*", RUN_RESULT);
	params_args(fcinfo, &spec);
	return run_job_now(fcinfo, &spec, 0);
}

/* ----------------------------------------------------------------
 *		SQL functions: rows as jsonb
 * ----------------------------------------------------------------
 */

/* The objects of a result, one by one */
typedef struct JsonbReader
{
	Job		   *job;
	ReturnSetInfo *rsinfo;
	MemoryContext row_context;
	TupleTableSlot *slot;		/* of the rows at hand */
} JsonbReader;

/* A job that has ended: what its rows are, or a set of command tags */
static TupleDesc
jsonb_row_type(Job *job)
{
	TupleDesc	desc;

	if (job->desc != NULL)
	{
		check_row_type(job, job->desc);
		desc = CreateTupleDescCopy(job->desc);
	}
	else
	{
		desc = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(desc, 1, "command_tag", TEXTOID, -1, 0);
		finish_tuple_desc(desc);
	}
	return BlessTupleDesc(desc);
}

/* Put a row, or the tag of a command, into a slot.  Others are left out. */
static bool
fill_slot(SpoolScan *scan, Job *job, TupleTableSlot *slot)
{
	if (scan->kind == FRAME_ROW)
		ExecStoreMinimalTuple((MinimalTuple) scan->data, slot, false);
	else if (scan->kind == FRAME_COMMAND && job->desc == NULL)
	{
		ExecClearTuple(slot);
		slot->tts_values[0] =
			CStringGetTextDatum(((CommandFrame *) scan->data)->tag);
		slot->tts_isnull[0] = false;
		ExecStoreVirtualTuple(slot);
	}
	else
		return false;
	return true;
}

/*
 * Read a job's rows as objects.  Casts of the user may run meanwhile, and do
 * with the job what they like.
 */
static void
read_jsonb(Job *job, ReturnSetInfo *rsinfo)
{
	TupleDesc	desc = jsonb_row_type(job);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, job->desc != NULL ?
													&TTSOpsMinimalTuple :
													&TTSOpsVirtual);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "pg_background row",
													  ALLOCSET_DEFAULT_SIZES);
	SpoolScan	last;
	SpoolScan	scan;

	/* Of several results, the last one counts. */
	begin_scan(&scan, job);
	last = scan;
	while (job->desc != NULL && next_frame(&scan))
	{
		if (scan.kind == FRAME_ROW_DESCRIPTION)
			last.pos = scan.pos;
	}

	while (next_frame(&last))
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		if (fill_slot(&last, job, slot))
		{
			Datum		object = row_to_jsonb(ExecFetchSlotHeapTupleDatum(slot));
			bool		isnull = false;

			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
								 &object, &isnull);
		}
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(row_context);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Raise all notices of a job that were not raised yet.
 */
static void
raise_notices(Job *job)
{
	SpoolScan	scan;
	int64		number = 0;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_background notice",
												  ALLOCSET_SMALL_SIZES);

	begin_scan(&scan, job);
	while (next_frame(&scan))
	{
		if (scan.kind == FRAME_NOTICE)
			raise_notice(job, ++number, &scan, context);
	}
}

/*
 * pg_background_result_jsonb_v2(pid int4, cookie int8) returns setof jsonb
 *
 * Wait for a job and return its rows, once, each as to_jsonb() makes it an
 * object; or its command tags, where it returned none.
 *
 * Errors: those of check_readable() and wait_for_progress(), the job's own,
 * 0A000 for a column that no caller can take.
 */
PG_FUNCTION_INFO_V1(pg_background_result_jsonb_v2);
Datum
pg_background_result_jsonb_v2(PG_FUNCTION_ARGS)
{
	Job		   *job;
	ReturnSetInfo *rsinfo;

	check_call(fcinfo, 2, "il", "Sj");
	job = job_arg(fcinfo);
	check_readable(job);
	rsinfo = begin_set(fcinfo);
	(void) wait_for_job(job, 0);
	raise_notices(job);
	if (job->error != NULL)
		raise_job_error(job);
	check_complete(job);

	pin_job(job);
	job->being_read = true;
	PG_TRY();
	{
		read_jsonb(job, rsinfo);
		if (!job->forgotten)
			deliver_job(job, rsinfo);
	}
	PG_FINALLY();
	{
		job->being_read = false;
		unpin_job(job);
	}
	PG_END_TRY();
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		SQL functions: a list of commands
 * ----------------------------------------------------------------
 */

/* One call of pg_background_run_all_v2() */
typedef struct RunAll
{
	text	  **commands;
	int			ncommands;
	int			concurrency;
	bool		stop_on_error;

	/* Where the outcomes go: a set, or an array of this type */
	ReturnSetInfo *rsinfo;
	Oid			outcome_type;
	Datum		outcomes;

	Job		  **jobs;			/* of each command, NULL before it is launched */
	int64	   *elapsed;		/* milliseconds */
	int			next;			/* the first command that is not launched */
	bool		stopped;

	/* Those that have not ended, and which commands they are */
	Job		  **running;
	int		   *numbers;
	int			nrunning;

	/* When to look next whether those wait for us */
	TimestampTz check_at;
} RunAll;

/* How often to look for a free slot while commands run, milliseconds */
#define RUN_ALL_RETRY	100

/* Note which commands have ended, and whether to stop. */
static void
run_all_collect(RunAll *run)
{
	int			still = 0;

	for (int i = 0; i < run->nrunning; i++)
	{
		Job		   *job = run->running[i];
		int			number = run->numbers[i];

		if (job->worker == NULL)
		{
			run->elapsed[number] = elapsed_since_launch(job);
			if (run->stop_on_error && job->error != NULL)
				run->stopped = true;
			continue;
		}
		run->running[still] = job;
		run->numbers[still++] = number;
	}
	run->nrunning = still;
}

/*
 * Launch commands until there are as many as may run, or no worker is to be
 * had; but one must be, where none runs.
 */
static void
run_all_launch(RunAll *run)
{
	while (run->next < run->ncommands && run->nrunning < run->concurrency)
	{
		JobSpec		spec = {0};
		Job		   *job;

		spec.sql = run->commands[run->next];
		spec.submitted = true;
		job = launch_job(&spec, run->nrunning > 0);
		if (job == NULL)
			return;
		pin_job(job);
		run->running[run->nrunning] = job;
		run->numbers[run->nrunning++] = run->next;
		run->jobs[run->next++] = job;
	}
}

/*
 * Wait until a command has said something; or for a moment, where more could run
 * at once if there were slots, since nobody tells us of those that others free.
 */
static void
run_all_wait(RunAll *run)
{
	if (run->stopped || run->next == run->ncommands ||
		run->nrunning == run->concurrency)
	{
		(void) wait_for_progress(run->running, run->nrunning, 0, true);
		return;
	}

	if (wait_for_progress(run->running, run->nrunning,
						  deadline_after(RUN_ALL_RETRY), true))
		run->check_at = deadline_after(DeadlockTimeout);
	else if (GetCurrentTimestamp() >= run->check_at)
	{
		(void) find_deadlock(run->running, run->nrunning);
		run->check_at = deadline_after(DeadlockTimeout);
	}
}

/* Return a row for each command; of one that was not launched, only its number. */
static void
run_all_return(RunAll *run)
{
	for (int i = 0; i < run->ncommands; i++)
	{
		Datum		values[OUTCOME_COLUMNS + 2];
		bool		isnull[OUTCOME_COLUMNS + 2];
		Job		   *job = i < run->next ? run->jobs[i] : NULL;

		memset(isnull, job == NULL, sizeof(isnull));
		values[0] = Int64GetDatum(i + 1);
		isnull[0] = false;
		if (job != NULL)
		{
			job_outcome(job, &values[1], &isnull[1]);
			values[OUTCOME_COLUMNS + 1] = Int64GetDatum(run->elapsed[i]);
		}
		tuplestore_putvalues(run->rsinfo->setResult, run->rsinfo->setDesc,
							 values, isnull);
	}
}

/* The same as an array */
static void
run_all_array(RunAll *run)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(run->outcome_type, -1);
	Datum	   *elems = palloc(Max(run->ncommands, 1) * sizeof(Datum));

	desc = BlessTupleDesc(desc);
	for (int i = 0; i < run->ncommands; i++)
	{
		Datum		values[OUTCOME_COLUMNS] = {0};
		bool		isnull[OUTCOME_COLUMNS];

		memset(isnull, true, sizeof(isnull));
		if (i < run->next)
			job_outcome(run->jobs[i], values, isnull);
		elems[i] = HeapTupleGetDatum(heap_form_tuple(desc, values, isnull));
	}
	run->outcomes = PointerGetDatum(construct_array(elems, run->ncommands,
													run->outcome_type, -1,
													false, TYPALIGN_DOUBLE));
}

/* Forget all the jobs; none goes on that has not ended. */
static void
run_all_end(RunAll *run)
{
	spare_idle_timeout = SPARE_IDLE_TIMEOUT;
	for (int i = 0; i < run->next; i++)
	{
		abandon_job(run->jobs[i]);
		unpin_job(run->jobs[i]);
	}
	release_idle_workers(max_idle_workers);
}

/* Cancel those that run, since one has failed. */
static void
run_all_stop(RunAll *run)
{
	for (int i = 0; i < run->nrunning; i++)
	{
		if (!run->running[i]->cancel_requested)
			cancel_job(run->running[i]);
	}
}

/*
 * Run all the commands, and let none go on where we cannot.
 *
 * One that can only wait for this session fails, and the others go on.
 */
static void
run_all(RunAll *run)
{
	spare_idle_timeout = INT_MAX;
	PG_TRY();
	{
		for (;;)
		{
			run_all_collect(run);
			if (run->stopped)
				run_all_stop(run);
			else
				run_all_launch(run);
			if (run->nrunning == 0)
				break;
			run_all_wait(run);
		}
		if (run->rsinfo != NULL)
			run_all_return(run);
		else
			run_all_array(run);
	}
	PG_CATCH();
	{
		run_all_end(run);
		PG_RE_THROW();
	}
	PG_END_TRY();
	run_all_end(run);
}

/*
 * Take apart what a function is called with to run a list of commands, which is
 * not null.
 *
 * Errors: 22004 for a command that is null, 22023 for a negative concurrency.
 */
static void
run_all_args(FunctionCallInfo fcinfo, RunAll *run)
{
	Datum	   *elems;
	bool	   *nulls;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &elems, &nulls, &run->ncommands);
	run->commands = palloc(Max(run->ncommands, 1) * sizeof(text *));
	for (int i = 0; i < run->ncommands; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("command %d must not be null", i + 1)));
		run->commands[i] = DatumGetTextPP(elems[i]);
	}

	run->concurrency = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	if (run->concurrency < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("concurrency must not be negative")));
	if (run->concurrency == 0)
		run->concurrency = max_workers;
	run->concurrency = Min(run->concurrency, Max(run->ncommands, 1));
	run->stop_on_error = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);

	run->jobs = palloc0(Max(run->ncommands, 1) * sizeof(Job *));
	run->elapsed = palloc(Max(run->ncommands, 1) * sizeof(int64));
	run->running = palloc(run->concurrency * sizeof(Job *));
	run->numbers = palloc(run->concurrency * sizeof(int));
	run->check_at = deadline_after(DeadlockTimeout);
}

/*
 * pg_background_run_all_v2(commands text[], concurrency int4,
 *							stop_on_error bool)
 * returns setof (ordinality int8, the columns of pg_background_outcome,
 *				  elapsed_ms int8)
 *
 * Run every command once, at most so many at a time, 0 meaning
 * pg_background.max_workers, on as few processes.  Where stop_on_error is true,
 * the first that fails cancels those that run, and no more are launched.
 *
 * Errors: 22004 for a command that is null, 22023 for a negative concurrency,
 * those of launch_job() and wait_for_progress().
 */
PG_FUNCTION_INFO_V1(pg_background_run_all_v2);
Datum
pg_background_run_all_v2(PG_FUNCTION_ARGS)
{
	RunAll		run = {0};

	check_call(fcinfo, 3, "AIB", "S(liltbbblttttzl)");
	run.rsinfo = begin_set(fcinfo);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	run_all_args(fcinfo, &run);
	run_all(&run);
	return (Datum) 0;
}

/*
 * Hold no snapshot while we wait, since there are commands that wait for all who
 * have one.  In a procedure that may commit we can do without, as it does when it
 * commits; see _SPI_commit() and PreCommit_Portals() of the server.
 *
 * Errors: XX000 where code further up has a snapshot of its own.
 */
static void
let_go_of_snapshots(FunctionCallInfo fcinfo)
{
	CallContext *call = (CallContext *) fcinfo->context;

	if (call == NULL || !IsA(call, CallContext) || call->atomic ||
		IsolationUsesXactSnapshot())
		return;
	ForgetPortalSnapshots();
	if (ActivePortal != NULL && ActivePortal->holdSnapshot != NULL &&
		ActivePortal->resowner != NULL)
	{
		UnregisterSnapshotFromOwner(ActivePortal->holdSnapshot,
									ActivePortal->resowner);
		ActivePortal->holdSnapshot = NULL;
	}
}

/*
 * procedure pg_background_maintain(commands text[], concurrency int4,
 *				stop_on_error bool, INOUT outcomes pg_background_outcome[])
 *
 * The same as pg_background_run_all_v2(), and hold no snapshot meanwhile, so that commands which
 * wait for those of others, as CREATE INDEX CONCURRENTLY does, do not wait for
 * us.  What is given for outcomes does not matter.
 *
 * Errors: the same.
 */
PG_FUNCTION_INFO_V1(pg_background_maintain);
Datum
pg_background_maintain(PG_FUNCTION_ARGS)
{
	RunAll		run = {0};
	bool		isnull = PG_ARGISNULL(0);

	check_call(fcinfo, 4, "AIBW", "(w)");
	if (!isnull)
	{
		run_all_args(fcinfo, &run);
		run.outcome_type =
			get_element_type(get_fn_expr_argtype(fcinfo->flinfo, 3));
		let_go_of_snapshots(fcinfo);
		run_all(&run);
		EnsurePortalSnapshotExists();
	}
	return make_composite(fcinfo, "(w)", &run.outcomes, &isnull);
}

/* ----------------------------------------------------------------
 *		SQL functions: the workers of all sessions
 * ----------------------------------------------------------------
 */

/* Return a row of pg_background_workers_v2() for a worker. */
static void
list_worker(WorkerShared *shared, ReturnSetInfo *rsinfo)
{
	uint32		state = pg_atomic_read_u32(&shared->state);
	JobInfo		info;
	Datum		values[9];
	bool		isnull[9] = {0};
	bool		visible;

	read_job_info(shared, &info);
	visible = has_privs_of_role(GetUserId(), info.owner) ||
		has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);

	values[0] = Int32GetDatum((int32) shared->head.pid);
	values[1] = Int32GetDatum((int32) shared->launcher_pid);
	values[2] = ObjectIdGetDatum(info.launcher_user);
	values[3] = ObjectIdGetDatum(info.user_id);
	values[4] = ObjectIdGetDatum(shared->database);
	values[5] = text_or_null(visible && info.label[0] != '\0' ?
							 info.label : NULL, &isnull[5]);
	values[6] = CStringGetTextDatum(state == WORKER_RUNNING ||
									state == WORKER_ENDED ? "running" :
									state == WORKER_READY ||
									state == WORKER_LEAVING ? "idle" : "starting");
	isnull[6] = !visible;
	values[7] = TimestampTzGetDatum(info.launched_at);
	isnull[7] = !visible;
	values[8] = text_or_null(visible ? info.sql_preview : NULL, &isnull[8]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
}

/*
 * pg_background_workers_v2() returns setof (pid int4, launcher_pid int4,
 *		launcher_user oid, user_id oid, database oid, label text, state text,
 *		launched_at timestamptz, sql_preview text)
 *
 * List the workers of all sessions of the cluster, with the job that each of
 * them runs, or has run last.  What a job is shows to those who may see the
 * queries of its user in pg_stat_activity.
 *
 * Errors: 53200 where there is no shared memory to list them in.
 */
PG_FUNCTION_INFO_V1(pg_background_workers_v2);
Datum
pg_background_workers_v2(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo;
	pg_atomic_uint32 *segments = worker_segments();

	check_call(fcinfo, 0, "", "S(iiooottzt)");
	if (segments == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("background workers cannot be listed"),
				 errdetail("The server's shared memory was used up before the list was made."),
				 errhint("Restart the server, best with \"%s\" in \"shared_preload_libraries\".",
						 LIBRARY_NAME)));
	rsinfo = begin_set(fcinfo);
	for (int i = 0; i < MaxBackends; i++)
	{
		dsm_handle	handle = pg_atomic_read_u32(&segments[i]);
		dsm_segment *mapped;
		dsm_segment *segment;
		SegmentHead *head;

		if (handle == 0)
			continue;
		mapped = dsm_find_mapping(handle);
		segment = mapped != NULL ? mapped : dsm_attach(handle);
		if (segment == NULL)
			continue;
		head = dsm_segment_address(segment);
		if (head->magic == SEGMENT_MAGIC)
			list_worker((WorkerShared *) head, rsinfo);
		if (mapped == NULL)
			dsm_detach(segment);
	}
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		The worker: what it says
 * ----------------------------------------------------------------
 */

/*
 * Frames that are still to be sent.  They are sent as one message, up to the
 * size that was there when sending it began: a message that waits for room in
 * the queue must be completed before the next, even where whatever made it
 * has been canceled meanwhile.
 */
static StringInfoData output;
static int	output_sending = 0;

/* What makes up the output; allowed to grow in a critical section */
static MemoryContext output_context;

/* NULL where nobody listens */
static shm_mq_handle *output_queue = NULL;

static shm_mq_handle *request_queue;

/* Nobody has wanted rows or notices from the start, or there is no job. */
static bool output_discard = false;

static bool
is_output_wanted(void)
{
	return !output_discard && pg_atomic_read_u32(&my_shared->discard) == 0;
}

/*
 * Make room in the output where no error may be raised.  Returns false where
 * there is no room to be had.
 */
static bool
enlarge_output_without_error(Size space)
{
	Size		needed = output.len + space + 1;
	Size		maxlen = Max(needed, 2 * (Size) output.maxlen);
	char	   *data;

	if (needed <= output.maxlen)
		return true;
	if (maxlen > MaxAllocSize)
		return false;
	data = MemoryContextAllocExtended(output_context, maxlen,
									  MCXT_ALLOC_NO_OOM);
	if (data == NULL)
		return false;
	memcpy(data, output.data, output.len);
	pfree(output.data);
	output.data = data;
	output.maxlen = maxlen;
	return true;
}

/*
 * Add a frame to the output, and return where its data go.
 */
static char *
append_frame(FrameKind kind, Size size)
{
	FrameHeader header;
	char	   *start;

	enlargeStringInfo(&output, frame_space(size));
	start = output.data + output.len;
	memset(start, 0, FRAME_HEADER_SIZE);
	header.size = size;
	header.kind = kind;
	memcpy(start, &header, sizeof(header));
	output.len += frame_space(size);
	return start + FRAME_HEADER_SIZE;
}

/*
 * Send the output.  Where the queue is full: without wait, leave the rest for
 * later and return false; with wait, sleep until the launcher has made room.
 * flush says to let the launcher know at once.
 *
 * Whatever interrupts us finds the output in order.
 */
static bool
send_output(bool wait, bool flush)
{
	while (output_queue != NULL && output.len > 0)
	{
		shm_mq_iovec iov;

		if (output_sending == 0)
			output_sending = output.len;
		iov.data = output.data;
		iov.len = output_sending;
		switch (send_nowait(output_queue, &iov, 1, flush))
		{
			case SHM_MQ_SUCCESS:
				output.len -= output_sending;
				memmove(output.data, output.data + output_sending, output.len);
				output_sending = 0;
				continue;
			case SHM_MQ_DETACHED:
				output_queue = NULL;
				continue;
			case SHM_MQ_WOULD_BLOCK:
				break;
		}
		if (pg_atomic_read_u32(&my_shared->discard) == DROP_ALL)
		{
			/* Nobody makes room any more. */
			shm_mq_detach(output_queue);
			output_queue = NULL;
			continue;
		}
		if (!wait)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, 0,
						 wait_event(&send_wait_event, "PgBackgroundSend"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (output_queue == NULL)
		resetStringInfo(&output);
	return true;
}

/*
 * The server's elog.c hands us its protocol messages for errors and notices
 * through these, in place of a socket.
 *
 * pq_redirect_to_shm_mq() would do that, too, but it gives up the queue when
 * a message that waits for room is interrupted, and the error is lost.
 */
static void
output_comm_reset(void)
{
}

/* Called after each message; its sender must not be held up. */
static int
output_flush(void)
{
	(void) send_output(false, true);
	return 0;
}

static bool
output_is_send_pending(void)
{
	return output.len > 0;
}

/* Warnings of the job that is running */
static WarningsFrame job_warnings;

/* A field of the server's protocol messages for errors and notices, or NULL */
static const char *
message_field(const char *body, size_t size, char code)
{
	const char *field = body;

	while (field < body + size && field[0] != '\0')
	{
		if (field[0] == code)
			return field + 1;
		field += strlen(field) + 1;
	}
	return NULL;
}

/* Take note of a warning, which nobody may ever read. */
static void
note_warning(const char *body, size_t size)
{
	const char *severity = message_field(body, size, PG_DIAG_SEVERITY_NONLOCALIZED);
	const char *message = message_field(body, size, PG_DIAG_MESSAGE_PRIMARY);

	if (severity == NULL || message == NULL || strcmp(severity, "WARNING") != 0)
		return;
	job_warnings.count++;
	strlcpy(job_warnings.last, message,
			1 + pg_mbcliplen(message, strlen(message), LAST_ERROR_SIZE - 1));
}

/*
 * Bring a notice into the database's encoding, where a job has set another for
 * its client.  As any client's, its notices are in that by now.
 *
 * In a database without an encoding, and for a client without one, the server
 * has converted nothing.
 */
static void
convert_notice(StringInfo notice, const char *body)
{
	bool		converted = GetDatabaseEncoding() != PG_SQL_ASCII &&
		pg_get_client_encoding() != PG_SQL_ASCII;

	/* Fields are a letter and a string each, and another zero ends them. */
	while (*body != '\0')
	{
		const char *text = body + 1;
		Size		len = strlen(text);

		appendStringInfoChar(notice, *body);
		appendStringInfoString(notice, converted ?
							   pg_client_to_server(text, len) : text);
		appendStringInfoChar(notice, '\0');
		body = text + len + 1;
	}
	appendStringInfoChar(notice, '\0');
}

static int
output_putmessage(char type, const char *body, size_t size)
{
	FrameKind	kind = type == 'E' ? FRAME_ERROR : FRAME_NOTICE;
	StringInfoData notice;

	if ((type != 'E' && type != 'N') ||
		(type == 'E' && pg_atomic_read_u32(&my_shared->state) == WORKER_ENDED))
		return 0;

	if (kind == FRAME_NOTICE &&
		pg_get_client_encoding() != GetDatabaseEncoding())
	{
		/* A debugging message is not worth a PANIC. */
		if (CritSectionCount > 0)
			return 0;
		initStringInfo(&notice);
		convert_notice(&notice, body);
		body = notice.data;
		size = notice.len;
	}
	if (kind == FRAME_NOTICE)
	{
		note_warning(body, size);
		if (!is_output_wanted())
			return 0;
	}

	/*
	 * Only a notice may wait for room, and only where that can be interrupted:
	 * where there is an error, a transaction has to be aborted first.  Where it
	 * cannot, as behind a commit, no notice is worth the PANIC that an error
	 * would be.
	 */
	if (kind == FRAME_NOTICE)
	{
		if (InterruptHoldoffCount > 0 || CritSectionCount > 0)
		{
			if (!enlarge_output_without_error(frame_space(size)))
				return 0;
		}
		else if (output.len > GATHER_SIZE)
			(void) send_output(true, true);
	}

	memcpy(append_frame(kind, size), body, size);
	return 0;
}

static void
output_putmessage_noblock(char type, const char *body, size_t size)
{
	(void) output_putmessage(type, body, size);
}

static const PQcommMethods output_methods = {
	.comm_reset = output_comm_reset,
	.flush = output_flush,
	.flush_if_writable = output_flush,
	.is_send_pending = output_is_send_pending,
	.putmessage = output_putmessage,
	.putmessage_noblock = output_putmessage_noblock
};

/*
 * An error goes to the launcher in the database's encoding: there may be no
 * way to say it in what the job has made its client_encoding.
 */
static void
report_unconverted(void)
{
	(void) SetClientEncoding(GetDatabaseEncoding());
}

/* Of one that ends the process, only the log's hook hears before the client. */
static emit_log_hook_type next_emit_log_hook = NULL;

static void
before_logging(ErrorData *error)
{
	if (error->elevel >= FATAL)
		report_unconverted();
	if (next_emit_log_hook != NULL)
		next_emit_log_hook(error);
}

/*
 * The process ends.  Where an error could not be sent, since the queue is full
 * and nobody reads it, leave word in the segment.  Of a job that has ended well,
 * the worker's state is word enough.
 */
static void
leave_last_words(int code, Datum arg)
{
	LastWords  *last_words = &my_shared->head.last_words;
	int			pos = 0;

	if (send_output(false, true))
		return;
	while (pos < output.len)
	{
		FrameHeader *header = (FrameHeader *) (output.data + pos);

		if (header->kind == FRAME_ERROR)
		{
			ErrorData  *error;

			/* Should that fail, the job has failed all the same. */
			last_words->sqlerrcode = ERRCODE_INTERNAL_ERROR;
			error = parse_message(output.data + pos + FRAME_HEADER_SIZE,
								  header->size);
			strlcpy(last_words->message,
					clip_text(error->message, LAST_ERROR_SIZE - 1),
					LAST_ERROR_SIZE);
			last_words->sqlerrcode = error->sqlerrcode;
		}
		pos += frame_space(header->size);
	}
}

/* ----------------------------------------------------------------
 *		The worker: rows
 * ----------------------------------------------------------------
 */

/* Does this type go with the session, as a temporary table's row type? */
static bool
is_temporary_type(Oid type)
{
	HeapTuple	tuple;
	bool		result;

	if (type < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		return true;
	result = isAnyTempNamespace(((Form_pg_type) GETSTRUCT(tuple))->typnamespace);
	ReleaseSysCache(tuple);
	return result;
}

/* Send a description of the rows that follow. */
static void
receiver_startup(DestReceiver *self, int operation, TupleDesc desc)
{
	Size		size = desc->natts * (ATTRIBUTE_FIXED_PART_SIZE + sizeof(uint32));
	char	   *data = palloc(Max(size, 1));
	char	   *versions = data + desc->natts * ATTRIBUTE_FIXED_PART_SIZE;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = (Form_pg_attribute)
			(data + i * ATTRIBUTE_FIXED_PART_SIZE);
		uint32		version = 0;

		memcpy(attr, TupleDescAttr(desc, i), ATTRIBUTE_FIXED_PART_SIZE);
		if (is_temporary_type(attr->atttypid))
			attr->atttypid = InvalidOid;
		else
			version = type_version(attr->atttypid);
		memcpy(versions + i * sizeof(uint32), &version, sizeof(version));
	}
	memcpy(append_frame(FRAME_ROW_DESCRIPTION, size), data, size);
	pfree(data);
}

/*
 * Make a tuple that stands on its own: no value is kept elsewhere, since the
 * snapshot that allows us to read it there will be gone.
 *
 * *copied says whether the tuple is the caller's to free.
 */
static MinimalTuple
fetch_flat_tuple(TupleTableSlot *slot, bool *copied)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Datum	   *values = NULL;
	MinimalTuple tuple;

	slot_getallattrs(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (attr->attlen != -1 || slot->tts_isnull[i] ||
			!VARATT_IS_EXTERNAL(DatumGetPointer(slot->tts_values[i])))
			continue;
		if (values == NULL)
		{
			values = palloc(desc->natts * sizeof(Datum));
			memcpy(values, slot->tts_values, desc->natts * sizeof(Datum));
		}
		values[i] = PointerGetDatum(detoast_external_attr((struct varlena *) DatumGetPointer(values[i])));
	}

	if (values == NULL)
		return ExecFetchSlotMinimalTuple(slot, copied);

	tuple = form_minimal_tuple(desc, values, slot->tts_isnull);
	for (int i = 0; i < desc->natts; i++)
	{
		if (values[i] != slot->tts_values[i])
			pfree(DatumGetPointer(values[i]));
	}
	pfree(values);
	*copied = true;
	return tuple;
}

/*
 * Send a row.  One that is larger than what we gather goes in parts, so that
 * no frame is left half sent when sending it is interrupted.
 */
static bool
receiver_receive(TupleTableSlot *slot, DestReceiver *self)
{
	bool		copied;
	MinimalTuple tuple;
	Size		size;
	char	   *rest;

	if (!is_output_wanted())
		return true;
	tuple = fetch_flat_tuple(slot, &copied);
	size = tuple->t_len;
	rest = (char *) tuple;

	if (output.len > 0 && output.len + frame_space(size) > GATHER_SIZE)
		(void) send_output(true, false);

	while (frame_space(size) > GATHER_SIZE)
	{
		Size		part = GATHER_SIZE - FRAME_HEADER_SIZE;

		memcpy(append_frame(FRAME_ROW_PART, part), rest, part);
		rest += part;
		size -= part;
		(void) send_output(true, false);
	}
	memcpy(append_frame(FRAME_ROW, size), rest, size);

	if (copied)
		pfree(tuple);
	return true;
}

static void
receiver_shutdown(DestReceiver *self)
{
}

static DestReceiver row_receiver = {
	.receiveSlot = receiver_receive,
	.rStartup = receiver_startup,
	.rShutdown = receiver_shutdown,
	.rDestroy = receiver_shutdown,
	.mydest = DestTupleQueue
};

/* ----------------------------------------------------------------
 *		The worker: whose job it is, in the server log
 *
 * log_line_prefix has no user and no database to show of a background process,
 * so every line of a job has them in its context.  The launcher does not show
 * them, see drop_job_line().
 * ----------------------------------------------------------------
 */

static char job_line[sizeof(JOB_LINE_START) + 2 * NAMEDATALEN + LABEL_SIZE + 64];
static char job_label[LABEL_SIZE];
static char database_name[NAMEDATALEN];
static char user_name[NAMEDATALEN];
static Oid	named_user = InvalidOid;

/* Make the line of what is known. */
static void
make_job_line(void)
{
	snprintf(job_line, sizeof(job_line),
			 job_label[0] != '\0' ?
			 JOB_LINE_START "\"%s\" in database \"%s\", label \"%s\"" :
			 JOB_LINE_START "\"%s\" in database \"%s\"",
			 user_name, database_name, job_label);

	/* It is one line, whatever it is made of. */
	for (char *c = job_line; *c != '\0'; c++)
	{
		if ((unsigned char) *c < ' ')
			*c = ' ';
	}
}

/*
 * A job of this user begins.  Until his name can be looked up, it is what it was
 * in his job before, if that was the last one.
 */
static void
begin_job_line(Oid user)
{
	JobInfo		info;

	read_job_info(my_shared, &info);
	strlcpy(job_label, info.label, LABEL_SIZE);
	if (user == named_user)
		make_job_line();
	else
		job_line[0] = '\0';
}

/* Look the names up, in a transaction. */
static void
complete_job_line(Oid user)
{
	char	   *name = GetUserNameFromId(user, true);

	if (name == NULL)
		name = psprintf("%u", user);
	if (database_name[0] == '\0')
		strlcpy(database_name, get_database_name(MyDatabaseId), NAMEDATALEN);
	if (user != named_user || strcmp(user_name, name) != 0)
	{
		strlcpy(user_name, name, NAMEDATALEN);
		named_user = user;
		make_job_line();
	}
	pfree(name);
}

/*
 * An error context callback, the outermost of the job.
 *
 * It must not make a message impossible to say: what is in the way of a client
 * encoding that the job has set is left out.
 */
static void
add_job_line(void *arg)
{
	char		line[sizeof(job_line)];

	if (job_line[0] == '\0')
		return;
	strlcpy(line, job_line, sizeof(line));
	for (char *c = line; *c != '\0'; c++)
	{
		if (IS_HIGHBIT_SET(*c) &&
			pg_get_client_encoding() != GetDatabaseEncoding())
			*c = '?';
	}
	errcontext("%s", line);
}

/* ----------------------------------------------------------------
 *		The worker: settings and users
 * ----------------------------------------------------------------
 */

/*
 * Set those of the launcher's settings that are not equal here, see
 * collect_settings().  Returns how many could not be set, having said so at
 * one level, or at another where the setting is a placeholder there.
 */
static int
set_settings(char *settings, Size size, int elevel, int placeholder_elevel)
{
	char	   *end = settings + size;
	int			failed = 0;

	while (settings < end)
	{
		char	   *name = settings;
		char	   *shown = name + strlen(name) + 1;
		char	   *value = shown + strlen(shown) + 1;
		char	   *context = value + strlen(value) + 1;
		bool		is_placeholder = context[1];
		const char *ours = GetConfigOption(name, true, false);
		Oid			role;

		memcpy(&role, context + 2, sizeof(role));
		settings = context + 2 + sizeof(role);
		if ((ours == NULL || strcmp(ours, shown) != 0) &&
			!set_setting(name, value, (GucContext) *context, role,
						 is_placeholder ? placeholder_elevel : elevel))
			failed++;
	}
	return failed;
}

/*
 * Make the session's settings those of the launcher.  Those that are equal
 * stay as they are, so that RESET in the job gives what it gives in any session
 * of this user.
 *
 * There are settings that exclude one another (log_statement_stats and
 * log_parser_stats), so that the order matters; one that cannot be set is tried
 * again after the others.
 *
 * What nobody has defined in the launcher, a library may have defined here.
 * Where it knows no such name, or no such value, the server warns a session
 * that loads that library, and goes on; warning_level is how to do so here.
 *
 * Errors: those of setting a setting.
 */
static void
restore_settings(char *settings, Size size, int warning_level)
{
	int			failed = INT_MAX;
	int			before;

	do
	{
		before = failed;
		failed = set_settings(settings, size, DEBUG5, DEBUG5);
	} while (failed > 0 && failed < before);

	if (failed > 0)
		(void) set_settings(settings, size, ERROR, warning_level);
}

static void
set_user(const char *setting, Oid user)
{
	(void) set_config_option(setting, OidIsValid(user) ?
							 GetUserNameFromId(user, false) : "none",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SET,
							 true, ERROR, false);
}

/*
 * What the launcher's session is: its settings as they were last sent, and
 * its users.  session_serialized is what this session's settings were when
 * they had been made the same.
 */
static StringInfoData session_settings;
static StringInfoData session_serialized;
static Oid	session_user_id;
static Oid	session_role;

/* The configuration was read again, and may differ from the launcher's. */
static bool session_stale = false;

/*
 * Make this session the same as the launcher's, in a transaction.  The level
 * is that of warnings of the launcher's settings.
 */
static void
adopt_session(bool settings_too, int warning_level)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	complete_job_line(session_user_id);
	if (settings_too)
	{
		ResetAllOptions();
		restore_settings(session_settings.data, session_settings.len,
						 warning_level);
	}
	if (session_user_id != GetSessionUserId())
		set_user("session_authorization", session_user_id);
	if (session_role != GetCurrentRoleId())
		set_user("role", session_role);
	CommitTransactionCommand();
	(void) settings_changed(&session_serialized);
	session_stale = false;
}

/* Take over from a request what it says of the launcher's session. */
static void
take_session(Request *request, char *settings)
{
	if (request->settings_size > 0)
	{
		resetStringInfo(&session_settings);
		appendBinaryStringInfo(&session_settings, settings,
							   request->settings_size);
	}
	session_user_id = request->session_user;
	session_role = request->role;

	if (request->settings_size > 0)
		session_stale = true;
	if (session_stale ||
		session_user_id != GetSessionUserId() ||
		session_role != GetCurrentRoleId())
		adopt_session(session_stale, WARNING);
}

/* ----------------------------------------------------------------
 *		The worker: running a job
 *
 * This follows exec_simple_query() and its helpers in the server's
 * tcop/postgres.c step by step, which cannot be called from here.
 * ----------------------------------------------------------------
 */

static bool xact_started = false;

/* See Request; and who we are without it */
static Oid	hold_user = InvalidOid;
static Oid	plain_user;

static void
start_xact_command(void)
{
	if (!xact_started)
	{
		StartTransactionCommand();
		xact_started = true;

		/* The server wants it to be zero when a transaction starts. */
		if (OidIsValid(hold_user))
		{
			plain_user = GetUserId();
			SetUserIdAndSecContext(hold_user, SECURITY_LOCAL_USERID_CHANGE);
		}
	}

	if (!statement_timeout_applies())
		disable_timeout(STATEMENT_TIMEOUT, false);
	else if (!get_timeout_active(STATEMENT_TIMEOUT))
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
}

static void
finish_xact_command(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	if (xact_started)
	{
		CommitTransactionCommand();
		xact_started = false;
		if (OidIsValid(hold_user))
			SetUserIdAndSecContext(plain_user, 0);
	}
}

/* Is this string to be logged by log_statement? */
static bool
is_logged_statement(List *parsetrees)
{
	ListCell   *lc;

	if (log_statement == LOGSTMT_NONE)
		return false;
	foreach(lc, parsetrees)
	{
		if (GetCommandLogLevel((Node *) lfirst_node(RawStmt, lc)) <= log_statement)
			return true;
	}
	return false;
}

static bool
is_transaction_exit(Node *stmt)
{
	if (!IsA(stmt, TransactionStmt))
		return false;
	switch (((TransactionStmt *) stmt)->kind)
	{
		case TRANS_STMT_COMMIT:
		case TRANS_STMT_PREPARE:
		case TRANS_STMT_ROLLBACK:
		case TRANS_STMT_ROLLBACK_TO:
			return true;
		default:
			return false;
	}
}

/*
 * Refuse what a job cannot do.
 *
 * Errors: 25P02 in an aborted transaction, 0A000 for COPY to or from a client
 * that is not there, 2D000 for transaction control where a user is held over
 * the transaction.
 */
static void
check_statement(Node *stmt)
{
	if (IsAbortedTransactionBlockState() && !is_transaction_exit(stmt))
		ereport(ERROR,
				(errcode(ERRCODE_IN_FAILED_SQL_TRANSACTION),
				 errmsg("current transaction is aborted, commands ignored until end of transaction block")));

	if (IsA(stmt, CopyStmt) && ((CopyStmt *) stmt)->filename == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("COPY protocol not allowed in pg_background")));

	if (IsA(stmt, TransactionStmt) && OidIsValid(hold_user))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("transaction control is not allowed in a background job launched by a security-definer function")));
}

/* The parameters of a job's only statement */
typedef struct JobParams
{
	int			count;
	int			used;			/* the highest number that the statement has */
	ParamListInfo list;
} JobParams;

/* The parser has found $n. */
static Node *
param_hook(ParseState *pstate, ParamRef *ref)
{
	JobParams  *params = pstate->p_ref_hook_state;
	Param	   *param;
	Oid			type;

	if (ref->number <= 0 || ref->number > params->count)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_PARAMETER),
				 errmsg("there is no parameter $%d", ref->number),
				 parser_errposition(pstate, ref->location)));
	params->used = Max(params->used, ref->number);

	type = params->list->params[ref->number - 1].ptype;
	param = makeNode(Param);
	param->paramkind = PARAM_EXTERN;
	param->paramid = ref->number;
	param->paramtype = type;
	param->paramtypmod = -1;
	param->paramcollid = get_typcollation(type);
	param->location = ref->location;
	return (Node *) param;
}

static void
setup_param_hook(ParseState *pstate, void *arg)
{
	pstate->p_ref_hook_state = arg;
	pstate->p_paramref_hook = param_hook;
}

/*
 * Errors: 08P01 where there are more parameters than the statement has, as
 * where one is bound in the protocol.
 */
static void
check_params_used(JobParams *params)
{
	if (params->used < params->count)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("job supplies %d parameters, but its statement requires %d",
						params->count, params->used)));
}

/* Restore a job's parameters, see params_args(). */
static JobParams *
restore_params(Request *request, char *data)
{
	JobParams  *params = palloc0(sizeof(JobParams));

	params->count = request->nparams;
	if (params->count == 0)
		return params;

	params->list = makeParamList(params->count);
	for (int i = 0; i < params->count; i++)
	{
		ParamExternData *param = &params->list->params[i];

		memcpy(&param->ptype, data, sizeof(Oid));
		data += sizeof(Oid);
		param->value = datumRestore(&data, &param->isnull);
		param->pflags = PARAM_FLAG_CONST;
	}
	return params;
}

/*
 * Say that a command has completed.  Where it was the last one, this is done
 * behind the commit, so that nothing is waited for.
 */
static void
send_command(QueryCompletion *qc, bool is_last)
{
	CommandFrame *command = (CommandFrame *) append_frame(FRAME_COMMAND,
														  sizeof(CommandFrame));
	char	   *tag = command->tag;
	const char *name = GetCommandTagName(qc->commandTag);

	command->row_count = qc->nprocessed;

	if (!command_tag_display_rowcount(qc->commandTag))
		strlcpy(tag, name, COMPLETION_TAG_BUFSIZE);
	else
		snprintf(tag, COMPLETION_TAG_BUFSIZE,
				 qc->commandTag == CMDTAG_INSERT ? "%s 0 " UINT64_FORMAT :
				 "%s " UINT64_FORMAT, name, qc->nprocessed);
	if (output.len > GATHER_SIZE && !is_last)
		(void) send_output(true, false);
}

/*
 * Run one statement of the string.  Only the last one has its rows sent.
 */
static void
run_statement(RawStmt *parsetree, const char *sql, JobParams *params,
			  bool is_last, bool implicit_block)
{
	CommandTag	tag = CreateCommandTag(parsetree->stmt);
	bool		snapshot_set = false;
	MemoryContext context;
	MemoryContext oldcontext;
	List	   *plans;
	Portal		portal;
	DestReceiver *receiver;
	QueryCompletion qc;

	forget_query_id();
	set_ps_display(GetCommandTagName(tag));
	check_statement(parsetree->stmt);
	start_xact_command();
	if (implicit_block)
		BeginImplicitTransactionBlock();
	CHECK_FOR_INTERRUPTS();

	if (analyze_requires_snapshot(parsetree))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		snapshot_set = true;
	}
	/* The transaction's context goes where the command is COMMIT. */
	context = AllocSetContextCreate(MessageContext, "pg_background statement",
									ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	plans = analyze_and_rewrite(parsetree, sql, setup_param_hook, params);
	check_params_used(params);
	plans = pg_plan_queries(plans, sql, CURSOR_OPT_PARALLEL_OK, params->list);
	if (snapshot_set)
		PopActiveSnapshot();
	CHECK_FOR_INTERRUPTS();

	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, sql, tag, plans, NULL);
	PortalStart(portal, params->list, 0, InvalidSnapshot);
	receiver = is_last && !output_discard ? &row_receiver : None_Receiver;
	MemoryContextSwitchTo(oldcontext);

	run_portal(portal, receiver, &qc);
	PortalDrop(portal, false);

	if (is_last)
	{
		if (implicit_block)
			EndImplicitTransactionBlock();
		/* Nothing that is to be said behind the commit may fail. */
		enlargeStringInfo(&output, frame_space(sizeof(CommandFrame)) +
						  frame_space(sizeof(WarningsFrame)) +
						  frame_space(sizeof(DoneFrame)));
		finish_xact_command();
	}
	else if (IsA(parsetree->stmt, TransactionStmt))
		finish_xact_command();
	else
	{
		CommandCounterIncrement();
		/* The time-out is that of each statement, not of the string. */
		disable_timeout(STATEMENT_TIMEOUT, false);
	}

	send_command(&qc, is_last);
	MemoryContextDelete(context);
}

/*
 * Run an SQL string as though it had arrived as one simple-query message.
 *
 * Where it has ended well, query cancels are held off on return.
 */
static void
run_string(const char *sql, JobParams *params)
{
	List	   *parsetrees;
	ListCell   *lc;
	bool		stats = log_statement_stats;
	bool		logged = false;
	bool		implicit_block;
	MemoryContext oldcontext;
	char		duration[32];

	if (stats)
		ResetUsage();
	start_xact_command();
	complete_job_line(session_user_id);

	oldcontext = MemoryContextSwitchTo(MessageContext);
	parsetrees = pg_parse_query(sql);
	MemoryContextSwitchTo(oldcontext);

	if (is_logged_statement(parsetrees))
	{
		ereport(LOG,
				(errmsg("statement: %s", sql),
				 errhidestmt(true)));
		logged = true;
	}

	if (params->count > 0 && list_length(parsetrees) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("cannot run multiple commands with parameters")));
	if (parsetrees == NIL)
		check_params_used(params);

	/* An implicit block also keeps procedures from ending the transaction. */
	implicit_block = list_length(parsetrees) > 1 || OidIsValid(hold_user);

	foreach(lc, parsetrees)
		run_statement(lfirst_node(RawStmt, lc), sql, params,
					  lnext(parsetrees, lc) == NULL, implicit_block);
	finish_xact_command();

	if (IsTransactionOrTransactionBlock())
	{
		if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
			ereport(ERROR,
					(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
					 errmsg("the background job left a transaction open, and what it did there was rolled back"),
					 errhint("End the transaction with COMMIT.")));
		ereport(WARNING,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("the background job left a transaction open, which is rolled back")));
		AbortOutOfAnyTransaction();
	}

	/* A cancel that comes now is too late. */
	HOLD_CANCEL_INTERRUPTS();
	pg_atomic_write_u32(&my_shared->state, WORKER_ENDED);

	switch (check_log_duration(duration, logged))
	{
		case 1:
			ereport(LOG,
					(errmsg("duration: %s ms", duration),
					 errhidestmt(true)));
			break;
		case 2:
			ereport(LOG,
					(errmsg("duration: %s ms  statement: %s", duration, sql),
					 errhidestmt(true)));
			break;
	}
	if (stats)
		ShowUsage("QUERY STATISTICS");
}

/*
 * pg_background.worker_timeout has passed.  Its number among the server's
 * time-outs is known once it is registered.
 */
static TimeoutId job_timeout_id;
static volatile sig_atomic_t job_timed_out = false;

static void
handle_job_timeout(void)
{
	job_timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/* Put an error that says so in the place of the one that is being handled. */
static void
replace_timeout_error(void)
{
	FlushErrorState();
	PG_TRY();
	{
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling job due to pg_background.worker_timeout")));
	}
	PG_CATCH();
	{
		/* It is the one to be reported now. */
		MemoryContextSwitchTo(MessageContext);
	}
	PG_END_TRY();
}

/*
 * A job has failed: report the error to the log and to the launcher, and
 * clean up, as PostgresMain() does.  Returns whether it was canceled by
 * somebody's wish, rather than by a time-out, which has the same SQLSTATE.
 */
static bool
recover_from_error(void)
{
	ErrorData  *error;
	bool		canceled;

	MemoryContextSwitchTo(MessageContext);
	if (job_timed_out && geterrcode() == ERRCODE_QUERY_CANCELED)
		replace_timeout_error();

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	error = CopyErrorData();
	canceled = error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		error->message_id != NULL &&
		strcmp(error->message_id, "canceling statement due to user request") == 0;
	report_unconverted();
	EmitErrorReport();

	debug_query_string = NULL;
	AbortOutOfAnyTransaction();
	PortalErrorCleanup();
	if (MyReplicationSlot != NULL)
		ReplicationSlotRelease();
	jit_reset_after_error();

	MemoryContextSwitchTo(MessageContext);
	FlushErrorState();
	xact_started = false;
	RESUME_INTERRUPTS();
	return canceled;
}

/* Has this session a schema of its own for temporary tables? */
static bool
has_temp_namespace(void)
{
	Oid			namespace;
	Oid			toast_namespace;

	GetTempNamespaceState(&namespace, &toast_namespace);
	return OidIsValid(namespace);
}

/*
 * Is the current user the one that the session's settings say?  Servers without
 * the fix of CVE-2024-10978 can be made to forget that.
 */
static bool
is_user_consistent(void)
{
	Oid			role = GetCurrentRoleId();

	return GetUserId() == (OidIsValid(role) ? role : GetSessionUserId());
}

/*
 * Has a library been loaded that keeps connections to other servers for as long
 * as the process lives?  They were made as somebody, and a later job, perhaps of
 * another role, would have them; from here they can neither be told nor closed.
 *
 * Each is known by a function of its own.
 */
static bool
keeps_connections(void)
{
	static const char *const functions[] = {
		"dblink_connect", "mysql_fdw_handler", "oracle_fdw_handler",
		"plproxy_call_handler", "postgres_fdw_handler"
	};
	static uint64 loads_seen = 0;
	static bool found = false;
	uint64		loads = count_loads();

	/* To look for them takes longer than a small job. */
	if (loads == loads_seen)
		return found;
	loads_seen = loads;
	for (int i = 0; !found && i < lengthof(functions); i++)
		found = dlsym(RTLD_DEFAULT, functions[i]) != NULL;
	return found;
}

/*
 * Can reset_session() make of this session what a new one is?  What only the
 * end of its process undoes for sure is: temporary tables, a replication
 * origin, a user that the server has mistaken, a base backup that is under way,
 * and connections.
 *
 * As DISCARD ALL does, it leaves what the libraries of procedural languages keep
 * (%_SHARED of PL/Perl, GD of PL/Python), and whatever libraries were loaded.
 */
static bool
can_be_reset(void)
{
	return !has_temp_namespace() && !has_replication_origin() &&
		is_user_consistent() && get_backup_status() == SESSION_BACKUP_NONE &&
		!keeps_connections();
}

/*
 * This process is connected as the caller of a SECURITY DEFINER function, who
 * sees in pg_stat_activity what it runs.  That is the owner's to know.
 *
 * Parallel workers would show it, too, so there are none.
 */
static void
hide_held_job(void)
{
	(void) set_config_option("max_parallel_workers", "0", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SET, true, ERROR, false);
	pgstat_report_activity(STATE_RUNNING, HELD_JOB_TEXT);
}

/*
 * Run the job of a request, and say everything that there is to say of it.
 * Returns whether this process will take another request.
 *
 * A query cancel takes effect only while the job runs.  Where it has taken
 * effect, another may be on its way, which must not meet the next job.
 */
static bool
run_job(Request *request)
{
	char	   *job_settings = (char *) request + sizeof(Request);
	char	   *sql = job_settings + request->settings_size;
	TimestampTz start = GetCurrentTimestamp();
	volatile bool canceled = false;
	TimestampTz end;
	bool		stays;
	DoneFrame  *done;
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = add_job_line
	};

	begin_job_line(request->session_user);
	error_context_stack = &callback;
	output_discard = request->discard;
	job_timed_out = false;
	job_warnings.count = 0;

	PG_TRY();
	{
		RESUME_CANCEL_INTERRUPTS();
		take_session(request, job_settings);
		hold_user = request->hold_user;

		debug_query_string = sql;
		SetCurrentStatementStartTimestamp();
		if (OidIsValid(hold_user))
			hide_held_job();
		else
			pgstat_report_activity(STATE_RUNNING, sql);
		if (pg_atomic_read_u32(&my_shared->canceled) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("canceling statement due to user request")));
		if (worker_timeout > 0)
			enable_timeout_after(job_timeout_id, worker_timeout);
		MemoryContextSwitchTo(MessageContext);
		run_string(sql, restore_params(request, sql + request->sql_size));
		disable_timeout(job_timeout_id, false);
	}
	PG_CATCH();
	{
		canceled = recover_from_error();
		/* Throwing an error has ended that. */
		HOLD_CANCEL_INTERRUPTS();
		pg_atomic_write_u32(&my_shared->state, WORKER_ENDED);
	}
	PG_END_TRY();

	QueryCancelPending = false;
	debug_query_string = NULL;
	hold_user = InvalidOid;

	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	set_ps_display("idle");

	stays = request->idle_timeout >= 0 && !canceled && can_be_reset();
	end = GetCurrentTimestamp();
	pg_atomic_write_u64(&my_shared->idle_since, (uint64) end);
	if (job_warnings.count > 0)
		memcpy(append_frame(FRAME_WARNINGS, sizeof(WarningsFrame)),
			   &job_warnings, sizeof(WarningsFrame));
	done = (DoneFrame *) append_frame(FRAME_DONE, sizeof(DoneFrame));
	done->canceled = canceled;
	done->stays = stays;
	done->execution = end - start;
	(void) send_output(true, true);
	error_context_stack = callback.previous;
	output_discard = true;
	if (stays)
		(void) change_state(my_shared, WORKER_ENDED, WORKER_READY);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(MessageContext);
	return stays && output_queue != NULL;
}

/*
 * Start the server's random numbers anew, so that a job cannot know those of the
 * next.
 */
static void
reseed_random(void)
{
	/* From -1 to 1 */
	double		seed = strong_random() / 9223372036854775808.0;

	(void) DirectFunctionCall1(setseed, Float8GetDatum(seed));
}

/*
 * Undo what the job has done to the session, as DISCARD ALL would, and what
 * it knew as a launcher, so that the next one cannot see it.
 */
static void
reset_session(void)
{
	StartTransactionCommand();
	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetPlanCache();
	ResetSequenceCaches();
	forget_all_jobs();
	memset(&stats, 0, sizeof(stats));
	drop_temporary_slots();
	reseed_random();
	CommitTransactionCommand();

	if (!settings_changed(&session_serialized))
		return;

	/*
	 * Where that fails, it is tried again, as the next job's error.  The launcher
	 * has been warned.
	 */
	PG_TRY();
	{
		adopt_session(true, DEBUG5);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(TopMemoryContext);
		FlushErrorState();
		session_stale = true;
		RESUME_INTERRUPTS();
		/* Throwing an error has ended that. */
		HOLD_CANCEL_INTERRUPTS();
	}
	PG_END_TRY();
}

/* ----------------------------------------------------------------
 *		The worker: main loop
 * ----------------------------------------------------------------
 */

/*
 * Do what was asked of this process while it was busy.  Returns whether a
 * worker that waits for another request should rather end: it is told to, or
 * the configuration now allows fewer of them.
 */
static bool
serve_interrupts(void)
{
	int			old_limit = max_idle_workers;

	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		session_stale = true;
	}
	return ProcDiePending || max_idle_workers < old_limit;
}

/*
 * Copy a request to where it lasts as long as the job.
 *
 * It stays in its queue until the next one is looked for, though there is none
 * yet.  Make room now: the launcher is told, which would wake it up for nothing
 * if it were told while it waits for the job.
 */
static Request *
copy_request(void *data, Size size)
{
	Request    *request = MemoryContextAllocHuge(MessageContext, size);

	memcpy(request, data, size);
	(void) shm_mq_receive(request_queue, &size, &data, true);
	return request;
}

/*
 * Wait for the next request, for so many milliseconds where timeout is not
 * negative.  Returns NULL where the launcher has let us go, another session
 * needs our slot, or we have waited long enough.
 */
static Request *
take_request(int timeout)
{
	TimestampTz deadline = 0;
	Look		look = {.history = &worker_looks, .limit = look_time / 4};

	for (;;)
	{
		Size		size;
		void	   *data;
		bool		leave = serve_interrupts();
		long		rest = -1;
		int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH;

		switch (shm_mq_receive(request_queue, &size, &data, true))
		{
			case SHM_MQ_SUCCESS:
				look_ended(&look);
				/* As any backend, we ignore a cancel that found us idle. */
				if (timeout >= 0)
					QueryCancelPending = false;
				pg_atomic_write_u32(&my_shared->state, WORKER_RUNNING);
				return copy_request(data, size);
			case SHM_MQ_DETACHED:
				return NULL;
			case SHM_MQ_WOULD_BLOCK:
				break;
		}
		if (pg_atomic_read_u32(&my_shared->state) == WORKER_LEAVING)
			return NULL;
		if (!leave && look_again(&look))
			continue;

		if (timeout >= 0)
		{
			TimestampTz now = GetCurrentTimestamp();

			if (deadline == 0)
				deadline = TimestampTzPlusMilliseconds(now, timeout);
			if (leave || now >= deadline)
			{
				/* Where we are claimed, a request is on its way. */
				if (change_state(my_shared, WORKER_READY, WORKER_LEAVING))
					return NULL;
			}
			else
			{
				events |= WL_TIMEOUT;
				rest = TimestampDifferenceMilliseconds(now, deadline);
			}
		}
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, events, rest,
						 wait_event(&request_wait_event, "PgBackgroundIdle"));
		ResetLatch(MyLatch);
	}
}

/*
 * Make sure that a segment was made by this build of the library, and where
 * it was not, leave word for the launcher, whose session must be closed.
 *
 * Errors: FATAL 55000.
 */
static void
check_segment(SegmentHead *head)
{
	const char *message = "pg_background was replaced while the session was open";
	const char *hint = "Reconnect to use the new version.";

	if (head->magic == SEGMENT_MAGIC)
		return;

	if (head->magic >> 32 == MAGIC_FAMILY)
	{
		strlcpy(head->last_words.message, message, LAST_ERROR_SIZE);
		strlcpy(head->last_words.hint, hint, LAST_ERROR_SIZE);
		head->last_words.sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	}
	ereport(FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_internal("%s", message),
			 errhint("%s", hint)));
}

/* The process ends; its segment is no longer to be found. */
static void
unlist_worker(int code, Datum arg)
{
	pg_atomic_write_u32((pg_atomic_uint32 *) DatumGetPointer(arg), 0);
}

/* Let the worker's segment be found, where there is a list. */
static void
enlist_worker(void)
{
	pg_atomic_uint32 *segments = worker_segments();

	if (segments == NULL)
		return;
	segments += my_backend_index();
	pg_atomic_write_u32(segments, my_segment);
	before_shmem_exit(unlist_worker, PointerGetDatum(segments));
}

/*
 * The worker's main function.  main_arg is the handle of its segment.
 *
 * No resource owner is made: where there is none, a mapping lasts as long as
 * the process.
 */
void
pg_background_worker_main(Datum main_arg)
{
	dsm_handle	handle = DatumGetUInt32(main_arg);
	dsm_segment *segment;
	SegmentHead *head;
	shm_mq	   *queue;
	Request    *request;
	int			timeout = -1;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	/* The launcher may have given up before it had handed us anything. */
	MemoryContextSwitchTo(TopMemoryContext);
	segment = dsm_attach(handle);
	if (segment == NULL)
		return;
	head = dsm_segment_address(segment);
	if (head->magic >> 32 == MAGIC_FAMILY)
	{
		head->pid = MyProcPid;
		unpin_segment(head, handle);
	}
	check_segment(head);
	my_shared = (WorkerShared *) head;
	my_segment = handle;

	queue = (shm_mq *) ((char *) my_shared + my_shared->request_queue);
	shm_mq_set_receiver(queue, MyProc);
	request_queue = shm_mq_attach(queue, segment, NULL);
	queue = (shm_mq *) ((char *) my_shared + my_shared->result_queue);
	shm_mq_set_sender(queue, MyProc);
	output_queue = shm_mq_attach(queue, segment, NULL);

	/* From here on, what goes wrong is told to the launcher. */
	output_context = AllocSetContextCreate(TopMemoryContext,
										   "pg_background output",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextAllowInCriticalSection(output_context, true);
	MemoryContextSwitchTo(output_context);
	initStringInfo(&output);
	MemoryContextSwitchTo(TopMemoryContext);
	before_shmem_exit(leave_last_words, (Datum) 0);
	PqCommMethods = &output_methods;
	whereToSendOutput = DestRemote;
	FrontendProtocol = PG_PROTOCOL_LATEST;

	next_emit_log_hook = emit_log_hook;
	emit_log_hook = before_logging;

	/*
	 * The client is the launcher, which reads the database's encoding, whatever
	 * the role or the database have for client_encoding: the server might not
	 * even have a conversion to it.  The database's is known only afterwards.
	 */
	HOLD_CANCEL_INTERRUPTS();
	SetConfigOption("client_encoding", "SQL_ASCII", PGC_BACKEND,
					PGC_S_OVERRIDE);
	BackgroundWorkerInitializeConnectionByOid(my_shared->database,
											  my_shared->login_user,
											  my_shared->connection_flags);
	SetConfigOption("client_encoding", GetDatabaseEncodingName(), PGC_BACKEND,
					PGC_S_OVERRIDE);
	process_session_preload_libraries();
	enlist_worker();
	job_timeout_id = RegisterTimeout(USER_TIMEOUT, handle_job_timeout);
	MessageContext = AllocSetContextCreate(TopMemoryContext, "MessageContext",
										   ALLOCSET_DEFAULT_SIZES);

	initStringInfo(&session_settings);
	initStringInfo(&session_serialized);

	while ((request = take_request(timeout)) != NULL)
	{
		timeout = request->idle_timeout;
		if (!run_job(request))
			break;
		reset_session();
	}
}
