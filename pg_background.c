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
 *	 - A worker is a process that runs jobs, one at a time, of any session that
 *	   connects as its user to its database.  It is known by its PID.
 *
 *	   session (launcher)          the pool                background worker
 *	   ------------------          --------                -----------------
 *	   jobs: cookie -> Job         jobs: request, state    main loop:
 *		 launch -----------------> queue of each kind -----> take a job
 *								   workers: who, whose job	 run it
 *		 channel: result queue <------ rows, notices -------
 *		 outcome <---------------- last words of a job <---- say done
 *
 * Starting a process and connecting it takes milliseconds, a message to one that
 * is there takes microseconds.  So a worker that has said done resets its session
 * and takes the next job, whose ever that is.  The pool is in shared memory and
 * knows all workers and all jobs that have not ended; one lock guards it.  A job
 * that finds no worker is queued there, whether its session waits for it or not,
 * and whether that is still there or not.
 *
 * What a job has to say is a stream of frames (see FrameKind).  Rows and notices
 * come through a result queue in a segment of the session's, the channel; where
 * nobody wants those, what there is to say is left with the job when it is done.
 * All that a session knows about a job it has learnt from that stream, in one
 * function, pump_job().  Every SQL function calls it, directly or through
 * wait_for_job(), and what nobody has read yet is kept as it came, in the job's
 * own spool, which is session-long and spills to disk.  Hence waiting never
 * deadlocks on a full queue, and a job's outcome outlives the transaction that
 * launched it.  What cannot be kept is an error of that job, and of nobody else.
 *
 * Code of users runs while results are read and may call any function here: see
 * pin_job().  What a catalog says of our functions may be another version's:
 * see check_call().
 *
 * Both sides sleep on their latches, which the other sets.  Only before it sleeps,
 * either looks for some microseconds whether what it waits for is there, see
 * look_again(); and only for slots that other users of background processes free
 * is it asked now and then, since nobody tells us of them.
 *
 * Contents, each a section with its title:
 *
 *	 - What processes share; what a process knows of the pool, a worker of its
 *	   job, and a session of its jobs: all types, and what is global.
 *	 - Prototypes, in the order of the sections.
 *	 - Settings of this extension: and all that is hooked when it is loaded.
 *	 - The wire: frames that a worker sends and a launcher takes, and the
 *	   session's settings and users, which go the other way.
 *	 - The pool: what is done with its lock held.
 *	 - The worker: its main loop, its place in the pool, and how it runs a job.
 *	 - The launcher: how a session gives the pool its jobs, waits for them, and
 *	   reads what they have said.
 *	 - How SQL calls us, and the SQL functions, which are a few lines each over
 *	   that.
 *	 - What depends on the server's version.
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
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "executor/spi.h"
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
#include "storage/condition_variable.h"
#include "storage/dsm.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
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
#include "utils/dsa.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
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

#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#endif

/* ----------------------------------------------------------------
 *		What processes share
 * ----------------------------------------------------------------
 */

#define LIBRARY_NAME		"pg_background"
#define LIBRARY_VERSION		"2.1.0"
#define WORKER_NAME			"pg_background"

/* Limits of the SQL interface; sizes in bytes, times in milliseconds. */
#define PREVIEW_SIZE		120
#define LAST_ERROR_SIZE		512
#define LABEL_SIZE			64
#define PROGRESS_SIZE		256
#define MAX_TIMEOUT			3600000
#define MIN_QUEUE_SIZE		64
#define MAX_QUEUE_SIZE		(512 * 1024 * 1024)

/* A request is one piece of shared memory. */
#define MAX_JOB_SIZE		(MaxAllocSize - 64 * 1024 * 1024)

/* How many submitted jobs that have ended are kept for nobody */
#define MAX_UNUSED_JOBS		1000

/* A spool's file is written and read in pieces of this size. */
#define SPOOL_BLOCK			65536

/* What is shown of a job that holds a user, see Request. */
#define HELD_JOB_TEXT		"<job of a security-definer function>"

/* Small messages are gathered until they fill this many bytes. */
#define GATHER_SIZE			8192

/*
 * What a job without rows has to say mostly fits into so many bytes; and one that
 * nobody reads, unless it fails.  Of those there may be thousands, and each page of
 * memory has its price in each process that comes to see it.
 */
#define MIN_BODY_AREA		1024
#define MIN_UNREAD_AREA		256

/* Before another job is launched, so many of those before are looked at. */
#define CATCH_UP_JOBS		4

/* A submitted job that has not begun has a number from here on for a PID. */
#define FIRST_JOB_NUMBER	(1 << 30)

/* How many jobs, and databases and users together, the pool knows at once */
#define MAX_SHARED_JOBS		16384
#define MAX_KINDS			1024

/* How many of the jobs can be submitted ones that have not ended */
#define MAX_QUEUED_JOBS		(MAX_SHARED_JOBS / 4 * 3)

/* How long a worker waits where enough others do, milliseconds */
#define SPARE_IDLE_TIMEOUT	100

/*
 * How often a waiting worker looks whether its database is wanted, milliseconds.
 * Jobs that come by the clock come after whole seconds; then it is not busy.
 */
#define DATABASE_LOOK		2300

/* How long to wait for a slot that a process is about to free, at first */
#define SLOT_RETRY			2

/* How long a job is queued before others than its session and workers care */
#define DESERTED			2000

/* How long the postmaster may take to see that a process has ended */
#define REAP_TIME			500

/* How long a commit waits at least for what its jobs need */
#define COMMIT_PATIENCE		10000

/* The process that has died of an error is started again, after a second. */
#define RESTART_TIME		1

/*
 * The first bytes of the pool say which build of this library made it.  A
 * session that was open while the library was replaced on disk starts workers
 * that load the new one; LAYOUT, see below, tells such a worker that it has
 * another idea of what follows PoolHead and WorkerHead.  These never change, so
 * that it can also say so.
 */
#define MAGIC_FAMILY		UINT64CONST(0x70676267)
#define POOL_MAGIC \
	((MAGIC_FAMILY << 32) | ((uint64) LAYOUT << 16) | SERVER_MAJOR)

/* The parts of the pool and of a worker in it that every build knows */
typedef struct PoolHead
{
	uint64		magic;
	uint64		nonce;			/* of this pool, and of none before it */
	Size		workers;		/* offset of the first worker */
	Size		worker_size;
} PoolHead;

typedef struct WorkerHead
{
	uint32		generation;		/* how often this one was somebody else */
	int			starter;		/* PGPROC number of who waits for it */
	int			error;			/* SQLSTATE of why it cannot be, or 0 */
} WorkerHead;

/*
 * The head of the segment by which sessions with a library of 1.x start their
 * workers, where these leave word of why they end.  It has never changed.
 */
typedef struct SegmentHead
{
	uint64		magic;
	pid_t		pid;
	pg_atomic_uint32 pinned;	/* does a pin still hold the segment? */
	int			sqlerrcode;
	char		message[LAST_ERROR_SIZE];
	char		hint[LAST_ERROR_SIZE];
} SegmentHead;

/* What a worker is started with, as bgw_extra */
typedef struct WorkerStart
{
	uint64		magic;
	uint64		nonce;
	Size		pool_size;
	int			worker;			/* its number */
	uint32		generation;
	Oid			database;
	Oid			login_user;
	uint32		connection_flags;	/* BYPASS_LOGIN_CHECK, or 0 */
	char		pool_name[NAMEDATALEN];
} WorkerStart;

/*
 * What other sessions may see of a worker's job, and what the job says of its
 * progress; percent is -1 before it has said anything.
 */
typedef struct JobInfo
{
	pid_t		launcher_pid;
	Oid			launcher_user;
	Oid			user_id;
	Oid			owner;			/* who may see what the job is */
	TimestampTz launched_at;
	char		label[LABEL_SIZE + 1];
	char		sql_preview[PREVIEW_SIZE + 1];
	int			progress_pct;
	char		progress_msg[PROGRESS_SIZE];
} JobInfo;

/*
 * What a job is to be run as and with.  The SQL string and its parameters follow:
 * of each, the type's OID and what datumSerialize() makes of it; then the PIDs
 * of workers that it must not have.
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

	bool		shows_label;	/* application_name is to tell the label */
	bool		discard;		/* nobody will read rows or notices */
	int			max_idle_workers;	/* of the launcher, as the next one */
	int			idle_timeout;	/* milliseconds */
	bool		new_login;		/* see alters_logins */
	Size		sql_size;		/* with its terminator */
	Size		params_size;
	int			nparams;
	int			nexcluded;
} Request;

/* A session's settings, shared by all its jobs that were launched with them */
typedef struct SharedSettings
{
	pg_atomic_uint32 references;
	uint64		id;				/* of no others since the server's start */
	Size		size;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} SharedSettings;

/*
 * The body of a job: the request, and where its rows go.  What it has to say at
 * its end, where it has no rows or its queue is full, takes the request's place.
 */
typedef struct JobBody
{
	slock_t		mutex;			/* over info */
	JobInfo		info;
	pg_atomic_uint32 canceled;	/* set to cancel a job that has not begun */
	pg_atomic_uint32 discard;	/* DROP_NEW, then DROP_ALL */
	dsm_handle	channel;		/* of the result queue, or 0 */
	dsa_pointer settings;		/* SharedSettings */
	dsa_pointer output;			/* what does not fit into the area */
	Size		output_size;
	int			lost_error;		/* SQLSTATE of what could not be said */
	pid_t		worker_pid;		/* 0 before it begins */
	Request		request;
	Size		area_size;
	char		area[FLEXIBLE_ARRAY_MEMBER];
} JobBody;

/* Say nothing more; do not even complete the message that is half sent. */
#define DROP_NEW		1
#define DROP_ALL		2

/*
 * Where a job is.  It has ended once what it did is committed, or rolled back and
 * the error is among what is still to be said: nothing that happens to the
 * process from then on is an error of the job.  It is done when all is said.
 *
 * All changes are made under the pool's lock, but for those to JOB_RUNNING and
 * JOB_ENDED, which its worker alone can make.
 */
typedef enum JobState
{
	JOB_FREE,
	JOB_PREPARED,				/* of a transaction that has not committed */
	JOB_QUEUED,
	JOB_STARTING,				/* it has a worker */
	JOB_RUNNING,
	JOB_ENDED,
	JOB_DONE,
	JOB_LOST					/* its worker's process has ended before */
} JobState;

/* A job, as all know it; both the numbers and the body are the pool's. */
typedef struct SharedJob
{
	pg_atomic_uint32 state;		/* a JobState */
	int			kind;
	int			worker;			/* -1 = none */
	int			previous;		/* in its kind's queue */
	int			next;			/* there, or among the free ones */
	bool		launcher_holds; /* a session or ... */
	bool		pool_holds;		/* ... the pool still needs it */
	bool		awaited;		/* its session waits for it to begin, and ... */
	bool		tell;			/* ... is to be woken when it does */
	bool		excludes;		/* some workers, see Request */
	bool		said_done;		/* its session knows before the pool does */
	bool		forgotten;		/* it has no handle, so that none waits for it */
	int			max_workers;	/* of its session at once; 0 = any number */
	int			preferred;		/* worker that its session used last */
	uint64		session;
	uint64		login;			/* see my_login */
	pid_t		launcher_pid;
	int			launcher;		/* PGPROC number */
	int			launcher_worker;	/* where that is a worker, else -1 */
	pg_atomic_uint32 launcher_waits;	/* until this job has ended */
	int64		ticket;			/* the order in which jobs were launched */
	TimestampTz queued_at;
	Size		charged;		/* against pg_background.queue_memory */
	bool		counted;		/* in ncharged */
	dsa_pointer body;
} SharedJob;

/* What became of jobs; times in microseconds */
typedef struct PoolCounters
{
	int64		launched;
	int64		completed;
	int64		failed;
	int64		canceled;
	int64		wait_time;
	int64		run_time;
	int64		started;
} PoolCounters;

/*
 * Jobs of one kind can have the same workers: those of a database and of the
 * user that they connect as; or of one session or job, where that shares none.
 * Those that wait for a worker are in the kind's queue.
 */
typedef struct Kind
{
	bool		used;
	bool		closed;			/* no more jobs will come */
	Oid			database;
	Oid			login_user;
	uint32		connection_flags;
	uint64		session;		/* 0 = of all sessions */
	int			counted_with;	/* the kind that has its counters */
	int			members;		/* how many count with this one */
	int			role_limit;		/* pg_background.max_role_workers, 0 = none */

	int			nworkers;		/* that are to stay */
	int			first_idle;		/* the last one to become so; -1 = none */
	int			first_job;		/* of the queue; -1 = none */
	int			last_job;
	int			njobs;
	int			reserved;		/* jobs that a transaction will add */
	int			reserver;		/* whose session waits for a worker, or -1 */
	int64		reserve_ticket;
	PoolCounters counters;
} Kind;

typedef enum WorkerState
{
	WORKER_FREE,
	WORKER_STARTING,
	WORKER_RUNNING,				/* or about to: it was given a job */
	WORKER_IDLE,
	WORKER_LEAVING
} WorkerState;

typedef struct PoolWorker
{
	WorkerHead	head;
	pg_atomic_uint32 state;		/* a WorkerState; changed under the lock */
	pid_t		pid;			/* 0 before the process is there */
	int			procno;			/* PGPROC number; -1 before */
	int			kind;
	int			job;			/* -1 = none */
	uint64		checked_login;	/* see is_outdated() */
	bool		connected;
	bool		signaled;		/* a job was canceled: not used again */
	bool		was_idle;		/* when it was made to leave */
	int			previous_idle;
	int			next_idle;
	TimestampTz idle_since;
	JobInfo		info;			/* of the last job */
} PoolWorker;

/*
 * The pool, in shared memory.  One lock guards its changes; what is done under
 * it takes no longer than a walk along some numbers.
 */
typedef struct Pool
{
	PoolHead	head;
	int			tranche;
	LWLock		lock;
	dsa_handle	area;			/* bodies and settings; see attach_area() */
	ConditionVariable memory_freed;
	int			memory_waiters;
	Size		charged;		/* see pg_background.queue_memory */
	int			ncharged;		/* jobs that were, until they are freed */
	uint64		last_session;
	uint64		last_settings;
	int64		last_ticket;
	int			max_worker_number;	/* none above was ever used */
	int			nworkers;		/* that are not free */
	int			nidle;
	int			nleaving;
	TimestampTz last_exit;
	TimestampTz last_restart;	/* that the postmaster was asked for */
	TimestampTz last_refusal;	/* of a slot; 0 = one may be free */
	bool		dropped;		/* its shutdown was logged */
	int			free_job;
	int			nkinds;			/* none from here on was ever used */
	Kind		kinds[MAX_KINDS];
	SharedJob	jobs[MAX_SHARED_JOBS];
	PoolWorker	workers[FLEXIBLE_ARRAY_MEMBER];
} Pool;

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
	int64		execution;		/* how long it took, microseconds */
} DoneFrame;

/* All that processes share, by its sizes; in 16 bits */
#define LAYOUT \
	((sizeof(Pool) + 3 * sizeof(Kind) + 5 * sizeof(SharedJob) + \
	  7 * sizeof(PoolWorker) + 11 * sizeof(JobBody) + \
	  13 * sizeof(SharedSettings) + 17 * sizeof(CommandFrame) + \
	  19 * sizeof(WarningsFrame) + 23 * sizeof(DoneFrame)) & 0xFFFF)

/* How the line begins that tells a job in the server log, see add_job_line() */
#define JOB_LINE_START		"background job of user "

PGDLLEXPORT void _PG_init(void);
PGDLLEXPORT void pg_background_worker_main(Datum main_arg);

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

/* ----------------------------------------------------------------
 *		What a process knows of the pool
 * ----------------------------------------------------------------
 */

static Pool *pool = NULL;
static dsa_area *pool_area = NULL;

/*
 * What this process is as a launcher.  Both are numbers that the pool counts up: one
 * is the session's name, the other tells workers since when it knows who may log in.
 */
static uint64 my_session = 0;
static uint64 my_login = 0;

/* And as a worker: its place and its job, NULL where there is none */
static WorkerStart my_start;
static PoolWorker *me = NULL;
static JobBody *my_body = NULL;

/*
 * A job's body is in memory that may have to be mapped first.  Where that fails, we
 * end, and do not try again as we do: the job is as well with another.
 */
static bool mapping_body = false;

/* PGPROC numbers of those to be woken when the lock is released */
static int	to_wake[16];
static int	nto_wake = 0;

/* Which limit is in the way of another process? */
typedef enum ProcessLimit
{
	LIMIT_NONE,
	LIMIT_TOTAL,
	LIMIT_ROLE,
	LIMIT_SLOTS
} ProcessLimit;

/* Where a job stands with the pool */
typedef enum Place
{
	PLACE_LINE,					/* its session waits until it has a worker */
	PLACE_QUEUE,				/* nobody does */
	PLACE_PROCESS,				/* its worker's process has to start, or to end
								 * the job before */
	PLACE_WORKER				/* it has begun, or is about to */
} Place;

/* Until when to wait for another job, 0 where that has not been decided */
static TimestampTz idle_deadline = 0;

/* See note_outdated() and hash_login(), and what that was when we logged in */
static bool outdated = false;
static bool database_changed = false;
static uint32 login_hash;
static uint32 database_hash;
static uint32 user_hash;

/* ----------------------------------------------------------------
 *		What a worker knows of its job
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

/* Where the output of the job at hand goes */
typedef enum OutputMode
{
	OUTPUT_KEPT,				/* into the job's body in the end, see
								 * publish_output() */
	OUTPUT_GATHERED,			/* there, where it is little, else ... */
	OUTPUT_SENT					/* ... to the queue; NULL = nobody listens */
} OutputMode;

static OutputMode output_mode = OUTPUT_KEPT;

/* Has the job's error been handed to us? */
static bool error_said = false;
static shm_mq_handle *output_queue = NULL;

/* Nobody has wanted rows or notices from the start, or there is no job. */
static bool output_discard = true;

/* See before_error() */
typedef struct BeforeError
{
	MemoryContext context;
	uint32		holdoff;
	uint32		cancel_holdoff;
} BeforeError;

/* Warnings of the job that is running */
static WarningsFrame job_warnings;

/*
 * What the launcher's session is: its settings as they were last sent, and
 * its users.  session_serialized is what this session's settings were when
 * they had been made the same.
 */
static StringInfoData session_settings;
static uint64 session_settings_id = 0;
static uint64 last_session = 0;
static StringInfoData session_serialized;
static Oid	session_user_id;
static Oid	session_role;

/* The configuration was read again, and may differ from the launcher's. */
static bool session_stale = false;

static bool xact_started = false;

/* See Request; and who we are without it */
static Oid	hold_user = InvalidOid;
static Oid	plain_user;

/* The parameters of a job's only statement */
typedef struct JobParams
{
	int			count;
	int			used;			/* the highest number that the statement has */
	Oid		   *types;
	ParamListInfo list;
} JobParams;

/*
 * pg_background.worker_timeout has passed.  Its number among the server's
 * time-outs is known once it is registered.
 */
static TimeoutId job_timeout_id;
static volatile sig_atomic_t job_timed_out = false;

/* The channel that this process has mapped; NULL = none */
static dsm_segment *my_channel = NULL;

/* ----------------------------------------------------------------
 *		What a session knows of its jobs
 * ----------------------------------------------------------------
 */

/*
 * What rows come through: a segment of this session with a result queue.  A job
 * that has rows for somebody has one while it runs; its worker maps it.
 */
typedef struct Channel
{
	dlist_node	node;			/* in free_channels */
	dsm_segment *segment;
	int32		queue_size;
	shm_mq_handle *results;
} Channel;

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
 * How far its launcher is with a job: see set_phase().  Where the job itself is, the
 * pool knows, see JobState.
 */
typedef enum JobPhase
{
	PHASE_NEW,					/* not launched yet, or its launch has failed */
	PHASE_LAUNCHED,				/* it is in running_jobs */
	PHASE_ENDED					/* all is known of it that will be */
} JobPhase;

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
	JobPhase	phase;
	dlist_node	running_node;	/* in running_jobs, while it is launched */
	MemoryContext context;
	int			shared;			/* its number in the pool; -1 = none */
	JobBody    *body;			/* NULL without one */
	Size		size;			/* of its body and what comes with that */
	Channel    *channel;		/* NULL where nobody reads its rows */
	pid_t		pid;			/* of its worker, or its number before */
	pid_t		previous_pid;	/* where another worker was to have it */
	pid_t		number;			/* what its handle has for a PID */
	Oid			user_id;
	TimestampTz launched_at;
	int32		queue_size;
	char	   *sql;
	char	   *label;			/* or NULL */
	bool		is_v1;			/* its PID is its handle */
	bool		submitted;		/* its result is never read */
	bool		on_commit;
	bool		has_handle;		/* its launcher will know a PID of it */
	bool		over_memory;	/* it did not fit into the queue */
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
	SubTransactionId subxact;	/* whose commit it waits for */

	/* The message that is being taken apart, and how far we are */
	char	   *message;
	Size		message_size;
	Size		message_pos;
	bool		output_taken;	/* the last one, which is in the body */

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

/* How many channels are kept for jobs to come */
#define MAX_FREE_CHANNELS	4

/* How long the postmaster may take to start a process, milliseconds */
#define START_PATIENCE		60000

static MemoryContext launcher_context = NULL;
static HTAB *jobs_by_cookie = NULL;
static dlist_head jobs = DLIST_STATIC_INIT(jobs);

/* Those that have not ended, with a handle or without */
static dlist_head running_jobs = DLIST_STATIC_INIT(running_jobs);

static dlist_head free_channels = DLIST_STATIC_INIT(free_channels);
static int	nfree_channels = 0;

/* The worker that had the last job to end; -1 = none */
static int	last_worker = -1;

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
	int64		timed_out;
	int64		execution;		/* of the completed ones, microseconds */
}			stats;

/*
 * The session's settings as a worker is sent them, and as they were
 * serialized at that time, see refresh_settings(); and as its jobs share them.
 */
static StringInfoData my_settings;
static StringInfoData settings_serialized;
static uint64 settings_generation = 0;
static dsa_pointer shared_settings = InvalidDsaPointer;
static uint64 shared_generation = 0;

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
clip_text(const char *string, int limit)
{
	int			len = strlen(string);

	if (len <= limit)
		return pstrdup(string);
	len = pg_mbcliplen(string, len, limit - 3);
	return psprintf("%.*s...", len, string);
}

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
/* That of a job that was canceled before it began, or has no handle */
static ErrorData unread_error = {
	.elevel = ERROR,
	.sqlerrcode = ERRCODE_QUERY_CANCELED,
	.message = "canceling statement due to user request"
};
static ErrorData replaced_error = {
	.elevel = ERROR,
	.sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
	.message = "pg_background was replaced while the session was open",
	.hint = "Reconnect to use the new version."
};

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

/* What a caller says of the job that he launches */
typedef struct JobSpec
{
	text	   *sql;
	int32		queue_size;		/* 0 = pg_background.default_queue_size */
	text	   *label;			/* or NULL */
	bool		is_v1;
	bool		since_2;		/* by an interface of 2.0 or later */
	bool		submitted;
	bool		on_commit;
	int			nparams;
	StringInfo	params;			/* see Request */
} JobSpec;

/* How much a launch does before it returns */
typedef enum LaunchMode
{
	LAUNCH_BEGIN,				/* the job has a worker, whose PID is known */
	LAUNCH_RUN,					/* the same, but nobody asks for the PID at once */
	LAUNCH_SUBMIT,				/* it has one, or is in a queue that has some */
	LAUNCH_QUEUE				/* it is in its queue, whatever there is */
} LaunchMode;

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

/* The query that a result was delivered to */
typedef struct Delivery
{
	MemoryContextCallback callback;
	Job		   *job;
} Delivery;

/* A handle that a caller gives */
typedef struct Handle
{
	int32		pid;
	int64		cookie;
	bool		isnull;
} Handle;

/* The objects of a result, one by one */
typedef struct JsonbReader
{
	Job		   *job;
	ReturnSetInfo *rsinfo;
	MemoryContext row_context;
	TupleTableSlot *slot;		/* of the rows at hand */
} JsonbReader;

/* One call of pg_background_run_all() */
typedef struct RunAll
{
	text	  **commands;
	int			ncommands;
	int			concurrency;
	bool		stop_on_error;
	bool		raise_error;

	/* Where the outcomes go: a set, or an array of this type */
	ReturnSetInfo *rsinfo;
	Oid			outcome_type;
	Datum		outcomes;

	Job		  **jobs;			/* of each command, NULL before it is launched */
	int64	   *elapsed;		/* milliseconds */
	int			next;			/* the first command that is not launched */
	bool		stopped;
	int			nfailed;
	int			first_failed;	/* which command, where there is one */

	/* Those that have not ended, and which commands they are */
	Job		  **running;
	int		   *numbers;
	int			nrunning;
} RunAll;

/* ----------------------------------------------------------------
 *		Prototypes
 * ----------------------------------------------------------------
 */

/* What processes share */
static Size frame_space(Size size);

/* What a session knows of its jobs */
static int64 strong_random(void);
static char *clip_text(const char *string, int limit);

/* Settings of this extension */
static void define_settings(void);
static bool many_processors(void);
static int look_elapsed(Look *look);
static bool look_again(Look *look);
static void look_ended(Look *look);

/* The wire: frames sent */
static bool is_output_wanted(void);
static bool enlarge_output_without_error(Size space);
static char *append_frame(FrameKind kind, Size size);
static void open_output(void);
static bool send_output(bool wait, bool flush);
static void output_comm_reset(void);
static int output_flush(void);
static bool output_is_send_pending(void);
static const char *message_field(const char *body, size_t size, char code);
static void note_warning(const char *body, size_t size);
static void convert_notice(StringInfo notice, const char *body);
static int output_putmessage(char type, const char *body, size_t size);
static void output_putmessage_noblock(char type, const char *body,
									  size_t size);
static void report_unconverted(void);
static void before_logging(ErrorData *error);
static BeforeError before_error(void);
static void go_on_after_error(const BeforeError *before);
static bool publish_output(void);
static void leave_last_words(void);

/* The wire: rows sent */
static bool is_temporary_type(Oid type);
static void receiver_startup(DestReceiver *self, int operation,
							 TupleDesc desc);
static MinimalTuple fetch_flat_tuple(TupleTableSlot *slot, bool *copied);
static bool receiver_receive(TupleTableSlot *slot, DestReceiver *self);
static void receiver_shutdown(DestReceiver *self);

/* The wire: frames taken */
static void use_job(Job *job);
static void give_up_queue(Job *job);
static void forget_unlaunched_job(Job *job);
static void uncount_job(Job *job);
static void forget_job(Job *job);
static void forget_unused_jobs(void);
static void forget_all_jobs(void);
static void drop_job_line(ErrorData *edata);
static ErrorData *parse_message(char *data, Size size);
static ErrorData *make_error(Job *job, int sqlerrcode, const char *message,
							 const char *hint);
static bool is_anonymous(Oid type);
static bool type_exists(Oid type);
static uint32 type_version(Oid type);
static int find_mismatch(TupleDesc actual, uint32 *versions,
						 TupleDesc expected);
static void check_column_type(Form_pg_attribute attr);
static void check_row_type(Job *job, TupleDesc expected);
static void flush_spool(Spool *spool);
static void add_to_spool(Job *job, const char *frames, Size size);
static void begin_scan(SpoolScan *scan, Job *job);
static char *scan_bytes(SpoolScan *scan, off_t pos, Size size);
static void add_row_part(SpoolScan *scan);
static bool next_frame(SpoolScan *scan);
static void trim_spool(SpoolScan *scan);
static void parse_row_description(char *data, Size size, TupleDesc *desc,
								  uint32 **versions);
static bool is_result_frame(uint32 kind);
static bool take_frame(Job *job, uint32 kind, char *data, Size size);
static void blame_job(Job *job);
static DoneFrame *take_frames(Job *job);
static bool is_canceled(Job *job);
static void count_job(Job *job);
static ErrorData *unsaid_error(Job *job, JobState state);
static void job_lost(Job *job);
static shm_mq_result take_message(Job *job, DoneFrame *volatile *done);
static bool pump_job(Job *job);
static bool pump_jobs(void);
static void receive_from(Job *job);
static void catch_up(void);
static void catch_up_with_some(void);

/* The wire: settings collected */
static bool is_shared_setting(struct config_generic *record);
static void collect_settings(StringInfo settings);
static bool serialize_into(StringInfo buffer);
static bool settings_changed(StringInfo serialized);
static void refresh_settings(void);

/* The wire: settings and users restored */
static int set_settings(char *settings, Size size, int elevel,
						int placeholder_elevel);
static void restore_settings(char *settings, Size size, int warning_level);
static void set_user(const char *setting, Oid user);
static void adopt_session(bool settings_too, int warning_level);
static void show_label(void);
static void take_session(Request *request);

/* The pool */
static const char *library_name(void);
static Size pool_size(void);
static const char *pool_name(void);
static void init_pool(void *place);
static void attach_area(Pool *found);
static void attach_pool(void);
static void lock_pool(void);
static void wake_later(int procno);
static void unlock_pool(void);
static JobBody *body_of(SharedJob *job);
static JobState shared_state(int number);
static void set_shared_state(int number, JobState state);
static WorkerState worker_state(PoolWorker *worker);
static int worker_number(PoolWorker *worker);
static void drop_settings(dsa_pointer pointer);
static void free_body(dsa_pointer pointer);
static bool is_kind_needed(int number);
static void free_kind(int number);
static void free_kind_if_unneeded(int number);
static int free_kind_number(void);
static int get_kind(Oid database, Oid login_user, uint32 connection_flags,
					uint64 session);
static PoolCounters *counters_of(int kind);
static void enqueue_job(int number, bool first);
static void dequeue_job(int number);
static void discharge_job(SharedJob *job);
static dsa_pointer free_shared_job(int number);
static bool may_begin(SharedJob *job);
static bool is_excluded(SharedJob *job, pid_t pid);
static void unlist_idle(PoolWorker *worker);
static void list_idle(PoolWorker *worker);
static void make_leave(PoolWorker *worker);
static PoolWorker *find_idle_worker(SharedJob *job);
static void assign_job(int number, PoolWorker *worker);
static ProcessLimit find_limit(Kind *kind);
static void free_starting(PoolWorker *worker);
static void abandon_worker(PoolWorker *worker);
static int free_place(void);
static PoolWorker *make_place(int number, int kind);
static ProcessLimit start_process(int kind_number, int job);
static void make_room(int kind_number, ProcessLimit limit);
static bool is_slot_likely(Kind *kind);
static bool is_ending_job(PoolWorker *worker, SharedJob *job);
static bool is_worker_ending_job(SharedJob *job);
static bool is_any_ending_job(SharedJob *job);
static ProcessLimit dispatch(int kind_number);
static int64 first_ticket(Kind *kind);
static bool should_make_way(Kind *kind);
static void wake_starving(void);
static int idle_share(void);
static int take_queued_job(PoolWorker *worker);

/* The worker: main loop */
static void tell_session_of_1_x(dsm_handle handle);
static void tell_replaced(Datum main_arg);
static void init_output(void);
static void connect_to_database(void);

/* The worker: its place in the pool */
static void note_outdated(Datum arg, CatalogCache cache, uint32 hash);
static uint32 hash_login(void);
static bool is_outdated(int number);
static bool is_database_wanted(void);
static int most_idle(Request *request);
static bool are_too_many(void);
static void find_work(bool stays, int most, int timeout);
static void finish_job(bool failed, bool canceled, int64 run_time, bool stays);
static void give_back_job(void);
static bool try_to_leave(bool must);
static int find_deserted_kind(int patience);
static int leave_work(void);
static bool is_shutting_down(void);
static int count_dropped_jobs(void);
static bool is_kind_locked_out(Kind *kind);
static void fail_queue(Kind *kind);
static bool is_untouched(int job);
static dsa_pointer leave_job(void);
static void leave_words(int code, Datum arg);
static void leave_jobs(int code, Datum arg);
static void leave_pool(int code, Datum arg);
static bool take_place(void);
static JobBody *map_body(int job);
static void map_first_job(void);
static bool is_slot_wanted(void);
static bool serve_interrupts(void);
static bool wait_for_work(void);
static void begin_job(void);
static void report_idle(void);
static void enter_service(void);

/* The worker: running a job */
static void start_xact_command(void);
static void finish_xact_command(void);
static bool is_logged_statement(List *parsetrees);
static bool is_transaction_exit(Node *stmt);
static void check_statement(Node *stmt);
static Node *param_hook(ParseState *pstate, ParamRef *ref);
static void setup_param_hook(ParseState *pstate, void *arg);
static void check_params_used(JobParams *params);
static JobParams *restore_params(Request *request, char *data);
static void forget_statements(void);
static CachedPlanSource *find_statement(const char *sql, JobParams *params);
static CachedPlanSource *keep_statement(CachedPlanSource *source,
										List *queries, JobParams *params);
static void send_command(QueryCompletion *qc, bool is_last);
static List *plan_statement(RawStmt *parsetree, const char *sql,
							JobParams *params, CachedPlan **cached);
static void finish_statement(RawStmt *parsetree, bool is_last,
							 bool implicit_block);
static void run_statement(RawStmt *parsetree, const char *sql,
						  JobParams *params, bool is_last,
						  bool implicit_block);
static void end_open_transaction(void);
static void log_job_duration(const char *sql, bool logged);
static void run_string(const char *sql, JobParams *params);
static void handle_job_timeout(void);
static void replace_timeout_error(void);
static bool recover_from_error(void);
static bool has_temp_namespace(void);
static bool is_user_consistent(void);
static bool keeps_connections(void);
static bool can_be_reset(void);
static void hide_held_job(void);
static void set_up_job(Request *request, const char *sql);
static void say_done(bool canceled, int64 execution);
static void close_output(void);
static void run_job(void);
static void reseed_random(void);
static void reset_session(void);

/* The worker: whose job it is, in the server log */
static void make_job_line(void);
static void begin_job_line(Oid user);
static void complete_job_line(Oid user);
static void add_job_line(void *arg);

/* The launcher: jobs in the pool */
static void read_job_info(JobBody *body, JobInfo *info);
static void note_worker(Job *job, pid_t pid);
static void keep_progress(Job *job);
static void drop_spool(Spool *spool);
static void free_forgotten_job(Job *job);
static void pin_job(Job *job);
static void unpin_job(Job *job);
static Channel *get_channel(int32 queue_size);
static void drop_channel(Channel *channel);
static void open_channel(Channel *channel);
static void release_channel(Job *job);
static void release_shared_job(Job *job);
static void set_phase(Job *job, JobPhase phase);
static void end_job(Job *job);
static bool job_has_ended(Job *job);
static dsa_pointer share_settings(void);
static int excluded_pids(Job *job, int32 *pids);
static bool shares_workers(Job *job);
static void fill_body(Job *job, JobBody *body, const char *preview);
static void enter_shared_job(Job *job, dsa_pointer body, Size size);
static void publish_job(Job *job);
static PoolWorker *worker_of(Job *job);
static void signal_job(Job *job, int signal);
static void wake_worker_of(Job *job);
static void check_replaced(Job *job);
static bool withdraw_job(Job *job);
static void cancel_job(Job *job);
static void leave_session(void);
static void leave_as_launcher(int code, Datum arg);
static bool can_log_in(Oid user);
static Oid choose_user(Request *request, uint32 *connection_flags);

/* The launcher: waiting */
static List *waiting_sessions(void);
static bool waits_for_us(pid_t pid);
static List *awaited_processes(Job *job);
static bool depends_on_us(Job *job);
static bool is_deadlocked(Job *job);
static void sleep_until(TimestampTz deadline, TimestampTz check_at,
						uint32 event);
static bool is_queued(Job *job);
static Job *find_deadlock(Job **set, int njobs);
static void raise_deadlock(Job *job);
static Place place_of_worker(Job *job);
static TimestampTz next_slot_retry(Kind *kind, int *retry);
static Place look_for_worker(Job *job, ProcessLimit *limit,
							 TimestampTz *retry_at, int *retry);
static TimestampTz help_queued_jobs(Job **set, int njobs, int *retry);
static void set_launcher_waits(Job **set, int njobs, bool waits);
static bool wait_for_progress(Job **set, int njobs, TimestampTz deadline,
							  bool deadlock_is_theirs);
static TimestampTz deadline_after(int timeout);
static bool wait_for_job(Job *job, TimestampTz deadline);

/* The launcher: jobs */
static void check_not_parallel(void);
static void watch_logins(SyscacheCallbackFunction callback);
static void note_login_change(Datum arg, CatalogCache cache, uint32 hash);
static void init_launcher(void);
static int64 make_cookie(void);
static int32 check_spec(JobSpec *spec);
static Job *make_job(JobSpec *spec);
static void enter_job(Job *job);
static void drop_stale_jobs(Job *job);
static bool charge_job(Job *job);
static Place place_job(Job *job, LaunchMode mode);
static void queue_full_error(void);
static void no_worker_error(Job *job, Place place, ProcessLimit limit);
static void wait_for_turn(Job *job, bool tell);
static void number_job(Job *job);
static Job *launch_job(JobSpec *spec, LaunchMode mode);
static void raise_message(Job *job, ErrorData *message);

/* The launcher: jobs that start when the transaction commits */
static void forget_pending_jobs(SubTransactionId subxact);
static void wait_for_memory(Job *job);
static bool has_worker(Job *job, ProcessLimit *limit);
static void wait_for_worker(Job *job);
static void prepare_pending_jobs(void);
static void start_pending_jobs(void);
static void pending_xact_callback(XactEvent event, void *arg);
static void pending_subxact_callback(SubXactEvent event,
									 SubTransactionId subxact,
									 SubTransactionId parent, void *arg);
static void launch_on_commit(JobSpec *spec);

/* The launcher: what can be done with a job */
static bool may_use_job(Job *job);
static void check_job_user(Job *job);
static Job *find_job_of_pid(int32 pid);
static void note_read(Job *job);
static bool was_read(int32 pid, int64 cookie);
static void raise_unknown_job(int32 pid, int64 cookie);
static Job *get_job_v1(int32 pid);
static Job *find_job(int32 pid, int64 cookie);
static Job *get_job_v2(int32 pid, int64 cookie);
static const char *job_state(Job *job);
static void end_with_grace(Job *job, TimestampTz deadline);
static void put_row(Tuplestorestate *store, MinimalTuple row);
static void raise_notice(Job *job, int64 number, SpoolScan *scan,
						 MemoryContext context);
static void read_frame(Reader *reader);
static void read_tags(Reader *reader);
static void read_spool(Reader *reader);
static void check_complete(Job *job);
static void read_job(Job *job, ReturnSetInfo *rsinfo, TimestampTz deadline);

/* How SQL calls us */
static bool is_composite_of(Oid type, const char *columns);
static bool is_string(Oid type);
static bool is_type(Oid type, char letter);
static bool is_row_of(TupleDesc desc, const char *columns);
static bool is_result(Form_pg_proc proc, const char *result);
static bool are_arguments(Form_pg_proc proc, const char *declaration);
static void forget_checked_functions(Datum arg, CatalogCache cache,
									 uint32 hash);
static void forget_checked_types(Datum arg, Oid relation);
static const char *declared_result(const char *declaration);
static const char *find_declaration(Oid function,
									const char *const *declarations);
static const char *find_call(FunctionCallInfo fcinfo,
							 const char *const *declarations);
static ReturnSetInfo *begin_set(FunctionCallInfo fcinfo);
static void raise_job_error(Job *job);
static void check_readable(Job *job);
static void end_delivery(void *arg);
static void deliver_job(Job *job, ReturnSetInfo *rsinfo);
static Datum return_result(FunctionCallInfo fcinfo, Job *job);
static Datum make_composite(FunctionCallInfo fcinfo, const char *declaration,
							Datum *values, bool *isnull);
static Datum job_handle(FunctionCallInfo fcinfo, Job *job);
static JobSpec launch_args(FunctionCallInfo fcinfo);
static Handle read_handle(Datum value);
static Handle handle_arg(FunctionCallInfo fcinfo, const char *declaration);
static Job *job_arg(FunctionCallInfo fcinfo, const char *declaration);
static int check_timeout(int32 timeout, const char *name);
static int32 last_time(FunctionCallInfo fcinfo, const char *declaration);

/* SQL functions */
static Datum text_or_null(const char *string, bool *isnull);
static void list_job(Job *job, ReturnSetInfo *rsinfo);

/* SQL functions: outcomes */
static Datum row_count(Job *job, bool *isnull);
static Datum command_tag(Job *job, bool *isnull);
static Datum job_sqlstate(Job *job, bool *isnull);
static Datum job_message(Job *job, bool *isnull);
static void job_outcome(Job *job, Datum *values, bool *isnull);
static Job *look_up_job(int32 pid, int64 cookie);
static void handle_outcome(Handle *handle, Datum *values, bool *isnull);
static void outcome_arg(FunctionCallInfo fcinfo, const char *declaration,
						Datum *values, bool *isnull);
static Datum row_to_jsonb(Datum row);

/* SQL functions: many jobs at once */
static int forget_jobs(bool running_too);
static void discard_all(void);
static void run_utility(PlannedStmt *pstmt, const char *sql, bool keep_tree,
						ProcessUtilityContext context, ParamListInfo params,
						QueryEnvironment *environment, DestReceiver *receiver,
						QueryCompletion *qc);
static int cancel_jobs(text *pattern, int grace);
static TimestampTz wait_limit(FunctionCallInfo fcinfo, int arg);
static Handle *handle_args(FunctionCallInfo fcinfo, int arg, int *count);
static Job *first_to_end(Job **set, int njobs);

/* SQL functions: launch, wait and forget in one call */
static void abandon_job(Job *job);
static int64 elapsed_since_launch(Job *job);
static Job *launch_and_wait(JobSpec *spec, TimestampTz deadline,
							bool *timed_out);
static Datum run_job_now(FunctionCallInfo fcinfo, const char *declaration,
						 JobSpec *spec, TimestampTz deadline);
static Datum query_job_now(FunctionCallInfo fcinfo, JobSpec *spec,
						   TimestampTz deadline);
static JobSpec run_args(FunctionCallInfo fcinfo);

/* SQL functions: parameters */
static void params_args(FunctionCallInfo fcinfo, const char *declaration,
						JobSpec *spec);

/* SQL functions: rows as jsonb */
static TupleDesc jsonb_row_type(Job *job);
static bool fill_slot(SpoolScan *scan, Job *job, TupleTableSlot *slot);
static void read_jsonb(Job *job, ReturnSetInfo *rsinfo);
static void raise_notices(Job *job);

/* SQL functions: a list of commands */
static void run_all_collect(RunAll *run);
static void run_all_launch(RunAll *run);
static void run_all_return(RunAll *run);
static void run_all_array(RunAll *run);
static void run_all_raise(RunAll *run);
static void run_all_end(RunAll *run);
static void run_all_stop(RunAll *run);
static void run_all(RunAll *run);
static void run_all_args(FunctionCallInfo fcinfo, RunAll *run);
static void let_go_of_snapshots(FunctionCallInfo fcinfo);

/* SQL functions: the pool */
static void list_worker(PoolWorker *worker, Kind *kind, JobInfo *info,
						JobState state, ReturnSetInfo *rsinfo);
static void list_kind(int number, ReturnSetInfo *rsinfo);

/* What depends on the server's version */
static uint32 wait_event(uint32 *known, const char *name);
static shm_mq_result send_nowait(shm_mq_handle *queue, shm_mq_iovec *iov,
								 int iovcnt, bool flush);
static struct config_generic **all_settings(int *count);
static double real_setting(struct config_generic *record);
static Oid setting_role(struct config_generic *record);
static bool set_setting(const char *name, const char *value,
						GucContext context, Oid role, int elevel);
static void reserve_prefix(const char *prefix);
static List *analyze_and_rewrite(RawStmt *parsetree, const char *sql,
								 ParserSetupHook setup, void *arg);
static int my_procno(void);
static void forget_query_id(void);
static void run_portal(Portal portal, DestReceiver *receiver,
					   QueryCompletion *qc);
static MinimalTuple form_minimal_tuple(TupleDesc desc, Datum *values,
									   bool *isnull);
static bool has_replication_origin(void);
static void drop_temporary_slots(void);
static void finish_tuple_desc(TupleDesc desc);
static bool statement_timeout_applies(void);
static void *named_segment(const char *name, Size size, void (*init) (void *));
static int new_lock_tranche(const char *name);
static void register_lock_tranche(int tranche, const char *name);
static uint64 count_loads(void);

/* ----------------------------------------------------------------
 *		Settings of this extension
 * ----------------------------------------------------------------
 */

static int	max_idle_workers;	/* -1 = the pool's share */
static int	idle_timeout;		/* milliseconds */
static int	look_time;			/* microseconds */
static int	max_workers;
static int	max_role_workers;	/* 0 = no limit */
static int	max_total_workers;	/* -1 = no limit */
static int	default_queue_size; /* bytes */
static int	max_queue_size;		/* bytes */
static int	queue_memory;		/* kilobytes */
static int	worker_timeout;		/* milliseconds */
static int	launch_timeout;		/* milliseconds */
static bool share_workers;

/*
 * This session has changed what others have set when they log in, of which the
 * server tells nobody: its jobs' workers are to look.
 */
static bool alters_logins = false;

/*
 * Roles, their memberships or databases have changed since this session last
 * launched a job: see my_login.
 */
static bool logins_changed = false;

static ProcessUtility_hook_type next_utility_hook = NULL;

static void
define_settings(void)
{
	DefineCustomIntVariable("pg_background.max_idle_workers",
							"Sets how many workers may wait for jobs when one of this session has ended.",
							"0 ends each worker with its job, -1 allows a quarter of \"max_worker_processes\", which is the most.",
							&max_idle_workers, -1, -1, 1000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.idle_timeout",
							"Sets how long a worker waits for the next job.",
							NULL,
							&idle_timeout, 60000, 0, INT_MAX,
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
	DefineCustomIntVariable("pg_background.max_role_workers",
							"Sets how many processes the jobs of a user may have.",
							"0 turns this off.",
							&max_role_workers, 0, 0, 1000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.max_total_workers",
							"Sets how many processes all jobs of the server may have.",
							"-1 turns this off.",
							&max_total_workers, -1, -1, 262143,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.default_queue_size",
							"Sets the size of a job's result queue where the launch gives none.",
							NULL,
							&default_queue_size, 65536, MIN_QUEUE_SIZE, 256 * 1024 * 1024,
							PGC_USERSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.max_queue_size",
							"Sets how large a job's result queue may be at most.",
							"Queues take up shared memory, which is the whole server's.",
							&max_queue_size, 64 * 1024 * 1024, 4096, MAX_QUEUE_SIZE,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.queue_memory",
							"Sets how much shared memory submitted jobs may take up that wait for a worker.",
							NULL,
							&queue_memory, 65536, 0, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.worker_timeout",
							"Sets how long a job may take.",
							"0 turns this off.",
							&worker_timeout, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_background.launch_timeout",
							"Sets how long a launch waits for a free worker.",
							"0 does not wait.",
							&launch_timeout, 10000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("pg_background.share_workers",
							 "Sets whether the session's jobs may have workers that other sessions use, too.",
							 NULL,
							 &share_workers, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
}

void
_PG_init(void)
{
	define_settings();
	reserve_prefix(LIBRARY_NAME);
	next_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = run_utility;
}

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
 *		The wire: frames sent
 * ----------------------------------------------------------------
 */

static bool
is_output_wanted(void)
{
	return !output_discard && my_body != NULL &&
		pg_atomic_read_u32(&my_body->discard) == 0;
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
	memset(start + FRAME_HEADER_SIZE + size, 0, MAXALIGN(size) - size);
	header.size = size;
	header.kind = kind;
	memcpy(start, &header, sizeof(header));
	output.len += frame_space(size);
	return start + FRAME_HEADER_SIZE;
}

/*
 * The output at hand goes to the queue of the job's session; where that is gone,
 * nobody listens.
 *
 * Mapping its segment takes longer than a small job, so that it is put off until
 * there is more to say than fits elsewhere, and is not undone before another
 * session's is needed.
 *
 * Errors: those of dynamic shared memory.
 */
static void
open_output(void)
{
	MemoryContext oldcontext;
	dsm_handle	handle = my_body->channel;

	if (my_channel != NULL && dsm_segment_handle(my_channel) != handle)
	{
		dsm_detach(my_channel);
		my_channel = NULL;
	}
	if (my_channel == NULL)
	{
		my_channel = dsm_attach(handle);
		if (my_channel != NULL)
			dsm_pin_mapping(my_channel);
	}
	if (my_channel != NULL)
	{
		shm_mq	   *queue = dsm_segment_address(my_channel);

		/* With the segment, its end would be the end of a later job's queue. */
		oldcontext = MemoryContextSwitchTo(MessageContext);
		if (shm_mq_get_sender(queue) == NULL)
			shm_mq_set_sender(queue, MyProc);
		output_queue = shm_mq_attach(queue, NULL, NULL);
		MemoryContextSwitchTo(oldcontext);
	}
	output_mode = OUTPUT_SENT;
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
	if (output_mode == OUTPUT_GATHERED && output.len > 0)
	{
		/* That may fail, also while an error is said, which does not wait. */
		if (InterruptHoldoffCount > 0 || CritSectionCount > 0 ||
			(error_said && !wait))
			return false;
		open_output();
	}
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
		if (my_body == NULL ||
			pg_atomic_read_u32(&my_body->discard) == DROP_ALL)
		{
			/* Nobody makes room any more. */
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
	if (output_queue == NULL && output_mode == OUTPUT_SENT)
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
		const char *value = body + 1;
		Size		len = strlen(value);

		appendStringInfoChar(notice, *body);
		appendStringInfoString(notice, converted ?
							   pg_client_to_server(value, len) : value);
		appendStringInfoChar(notice, '\0');
		body = value + len + 1;
	}
	appendStringInfoChar(notice, '\0');
}

static int
output_putmessage(char type, const char *body, size_t size)
{
	FrameKind	kind = type == 'E' ? FRAME_ERROR : FRAME_NOTICE;
	StringInfoData notice;

	if ((type != 'E' && type != 'N') ||
		(type == 'E' && me->connected &&
		 (my_body == NULL || shared_state(me->job) == JOB_ENDED)))
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
	else
		error_said = true;

	/*
	 * Only a notice may wait for room, and only where that can be interrupted:
	 * where there is an error, a transaction has to be aborted first.  All else
	 * finds room without an error or is not said: behind a commit, no notice is
	 * worth the PANIC, and an error while one is said would be said here, too, and
	 * so on until the PANIC.
	 */
	if (kind == FRAME_NOTICE && InterruptHoldoffCount == 0 &&
		CritSectionCount == 0)
	{
		if (output.len > GATHER_SIZE)
			(void) send_output(true, true);
	}
	else if (!enlarge_output_without_error(frame_space(size)))
	{
		if (kind == FRAME_ERROR && my_body != NULL)
			my_body->lost_error = ERRCODE_OUT_OF_MEMORY;
		return 0;
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
static int	fatal_error = 0;

static void
before_logging(ErrorData *error)
{
	if (error->elevel >= FATAL)
	{
		fatal_error = error->sqlerrcode;
		report_unconverted();
	}
	if (next_emit_log_hook != NULL)
		next_emit_log_hook(error);
}

/* What throwing an error ends, for who catches it and goes on */
static BeforeError
before_error(void)
{
	return (BeforeError) {
		.context = CurrentMemoryContext,
		.holdoff = InterruptHoldoffCount,
		.cancel_holdoff = QueryCancelHoldoffCount
	};
}

/* An error was caught: go on as if it had not been thrown.  See lock_pool(), too. */
static void
go_on_after_error(const BeforeError *before)
{
	MemoryContextSwitchTo(before->context);
	FlushErrorState();
	LWLockReleaseAll();
	InterruptHoldoffCount = before->holdoff;
	QueryCancelHoldoffCount = before->cancel_holdoff;
}

/*
 * Leave what a job has said and was not sent where its launcher finds it when the
 * job is done.  Returns false where there is no room for it; nothing here fails.
 */
static bool
publish_output(void)
{
	BeforeError before = before_error();
	volatile dsa_pointer pointer = InvalidDsaPointer;

	debug_query_string = NULL;
	if (output.len <= my_body->area_size)
		memcpy(my_body->area, output.data, output.len);
	else
	{
		PG_TRY();
		{
			pointer = dsa_allocate_extended(pool_area, output.len,
											DSA_ALLOC_HUGE | DSA_ALLOC_NO_OOM);
			if (DsaPointerIsValid(pointer))
				memcpy(dsa_get_address(pool_area, pointer), output.data,
					   output.len);
		}
		PG_CATCH();
		{
			go_on_after_error(&before);
			pointer = InvalidDsaPointer;
		}
		PG_END_TRY();
		if (!DsaPointerIsValid(pointer))
			return false;
		my_body->output = pointer;
	}
	my_body->output_size = output.len;
	return true;
}

/*
 * The process ends with a job, which may not even have begun.  What is still to be
 * sent, such as why, is left where it is found.
 *
 * Errors: those of dynamic shared memory.
 */
static void
leave_last_words(void)
{
	int			lost_error;

	if (my_body == NULL)
	{
		my_body = map_body(me->job);
		output_queue = NULL;
		output_mode = OUTPUT_KEPT;
	}
	lost_error = my_body->lost_error;
	my_body->lost_error = ERRCODE_OUT_OF_MEMORY;
	(void) send_output(false, true);
	if (output.len == 0 || publish_output())
		my_body->lost_error = lost_error;
}

/* ----------------------------------------------------------------
 *		The wire: rows sent
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
 *		The wire: frames taken
 * ----------------------------------------------------------------
 */

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

/* Of a job that may still write to it, the queue is given up. */
static void
give_up_queue(Job *job)
{
	if (job->channel == NULL)
		return;
	pg_atomic_write_u32(&job->body->discard, DROP_ALL);
	drop_channel(job->channel);
	job->channel = NULL;
}

/*
 * Forget a job that was not launched, since launching it has failed: it must not
 * run, or not go on.
 */
static void
forget_unlaunched_job(Job *job)
{
	if (job->shared >= 0)
	{
		if (!withdraw_job(job) && shared_state(job->shared) != JOB_PREPARED)
		{
			pg_atomic_write_u32(&job->body->canceled, 1);
			signal_job(job, SIGINT);
			give_up_queue(job);
		}
		release_shared_job(job);
	}
	release_channel(job);
	set_phase(job, PHASE_ENDED);
	free_forgotten_job(job);
}

/* A job has no handle any more: it no longer keeps others from beginning. */
static void
uncount_job(Job *job)
{
	SharedJob  *shared = &pool->jobs[job->shared];
	int			limit = shared->max_workers;

	shared->max_workers = 0;
	shared->forgotten = true;
	if (pool->nworkers - pool->nidle < limit)
		return;
	lock_pool();
	(void) dispatch(shared->kind);
	unlock_pool();
}

/*
 * Forget a job.  Where it was launched it goes on to its end, which is noticed,
 * but nothing that it says is kept.
 *
 * Its worker may be waiting for room in its queue, with a message half sent.
 * It is told to say no more, is given room for what it is just saying, and
 * gives up the queue only if that is not enough.
 */
static void
forget_job(Job *job)
{
	(void) hash_search(jobs_by_cookie, &job->cookie, HASH_REMOVE, NULL);
	dlist_delete(&job->node);
	use_job(job);
	job->forgotten = true;

	if (job_has_ended(job))
	{
		free_forgotten_job(job);
		return;
	}
	if (job->phase == PHASE_NEW)
	{
		forget_unlaunched_job(job);
		return;
	}

	uncount_job(job);

	/*
	 * One that is canceled is not used again.  We may be handling an error here,
	 * which is no place to find another one.
	 */
	pg_atomic_write_u32(&job->body->discard, DROP_NEW);
	pin_job(job);
	while (!job_has_ended(job) && !job->cancel_requested && pump_job(job))
		;
	if (!job_has_ended(job))
	{
		pg_atomic_write_u32(&job->body->discard, DROP_ALL);
		wake_worker_of(job);
	}
	unpin_job(job);
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

/*
 * Forget all jobs of the session, and those of which it has known without a
 * handle.  They go on.
 */
static void
forget_all_jobs(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &jobs)
		forget_job(dlist_container(Job, node, iter.cur));
	dlist_foreach_modify(iter, &running_jobs)
	{
		Job		   *job = dlist_container(Job, running_node, iter.cur);

		give_up_queue(job);
		end_job(job);
	}
	leave_session();
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
take_frames(Job *job)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(job->context);
	DoneFrame  *done = NULL;
	char	   *kept = NULL;	/* the first of those that are to be kept */

	while (done == NULL && job->message_pos < job->message_size)
	{
		char	   *frame = job->message + job->message_pos;
		FrameHeader *header = (FrameHeader *) frame;
		char	   *data = frame + FRAME_HEADER_SIZE;

		if (kept != NULL && !is_result_frame(header->kind))
		{
			add_to_spool(job, kept, frame - kept);
			kept = NULL;
		}

		/* Where it cannot be taken over, we go on with the one after. */
		job->message_pos += frame_space(header->size);
		if (header->kind == FRAME_DONE)
			done = (DoneFrame *) data;
		else if (take_frame(job, header->kind, data, header->size) &&
				 kept == NULL)
			kept = frame;
	}
	if (kept != NULL)
		add_to_spool(job, kept, job->message + job->message_pos - kept);
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

/* The error of a job that could not say what it was */
static ErrorData *
unsaid_error(Job *job, JobState state)
{
	char		message[LAST_ERROR_SIZE];

	if (job->body->lost_error == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
		return &replaced_error;
	if (job->forgotten)
		return job->cancel_requested ? &unread_error : NULL;
	if (job->body->lost_error != 0)
		return make_error(job, job->body->lost_error,
						  "the background job failed, and there was no memory for its message",
						  "More details may be available in the server log.");
	if (state != JOB_LOST)
		return NULL;
	snprintf(message, sizeof(message),
			 "lost connection to worker process with PID %d", (int) job->pid);
	return make_error(job, ERRCODE_CONNECTION_FAILURE, message,
					  "More details may be available in the server log.");
}

/*
 * There is nothing more to come of a job that has not said that it is done.  It
 * may have ended well, and only what it had still to say is lost.
 */
static void
job_lost(Job *job)
{
	JobState	state = shared_state(job->shared);

	keep_progress(job);
	if (job->error == NULL)
		job->error = unsaid_error(job, state);
	if (job->error == NULL)
		job->lost = true;
	count_job(job);
	end_job(job);
}

/*
 * Receive a message, without waiting, and take it over.  *done is what the job
 * then says of its end.
 */
static shm_mq_result
take_message(Job *job, DoneFrame *volatile *done)
{
	if (job->message_pos >= job->message_size)
	{
		/* When it is done, all that it has said is there. */
		bool		is_done = shared_state(job->shared) >= JOB_DONE;
		Size		size = 0;
		void	   *data = NULL;

		pg_read_barrier();
		job->message_pos = job->message_size = 0;
		if (job->channel == NULL ||
			shm_mq_receive(job->channel->results, &size, &data,
						   true) != SHM_MQ_SUCCESS)
		{
			if (!is_done)
				return SHM_MQ_WOULD_BLOCK;
			if (job->output_taken || job->body->output_size == 0)
				return SHM_MQ_DETACHED;
			job->output_taken = true;
			size = job->body->output_size;
			data = DsaPointerIsValid(job->body->output) ?
				dsa_get_address(pool_area, job->body->output) : job->body->area;
		}
		job->message = data;
		job->message_size = size;
	}

	*done = take_frames(job);
	return SHM_MQ_SUCCESS;
}

/*
 * Receive what a job has said, one message at a time, without waiting.  Returns
 * false where it has said nothing.
 *
 * No error of this is the caller's: what could not be taken over is an error of
 * the job.  A message that there is no memory for cannot be left out, so the
 * queue is given up, and the job goes on to its end unheard.
 */
static bool
pump_job(Job *job)
{
	BeforeError before = before_error();
	DoneFrame  *volatile done = NULL;
	volatile shm_mq_result result = SHM_MQ_SUCCESS;

	if (shared_state(job->shared) == JOB_STARTING)
		check_replaced(job);
	/* There can be thousands that say nothing before they are done. */
	if (job->channel == NULL && job->message_pos >= job->message_size &&
		shared_state(job->shared) < JOB_DONE)
		return false;
	PG_TRY();
	{
		result = take_message(job, &done);
	}
	PG_CATCH();
	{
		done = NULL;
		if (job->message_size == 0)
			give_up_queue(job);
		blame_job(job);
		go_on_after_error(&before);
	}
	PG_END_TRY();

	if (result == SHM_MQ_WOULD_BLOCK)
		return false;
	if (result == SHM_MQ_DETACHED)
		job_lost(job);
	else if (done != NULL)
	{
		job->canceled = done->canceled;
		job->execution = done->execution;
		if (job->error == NULL && job->body->lost_error != 0)
			job->error = unsaid_error(job, JOB_DONE);
		count_job(job);
		end_job(job);
	}
	return true;
}

/* Receive what any job has said; false where there was nothing. */
static bool
pump_jobs(void)
{
	dlist_mutable_iter iter;
	bool		progress = false;

	dlist_foreach_modify(iter, &running_jobs)
		progress |= pump_job(dlist_container(Job, running_node, iter.cur));
	return progress;
}

/*
 * Receive what a job has said so far.  One that never ceases to say things does not
 * keep us: no more is received than its queue holds.
 */
static void
receive_from(Job *job)
{
	Size		received = 0;
	bool		more = true;

	while (more && received < job->queue_size)
	{
		CHECK_FOR_INTERRUPTS();
		pin_job(job);
		more = pump_job(job) && !job_has_ended(job);
		received += job->message_size;
		unpin_job(job);
	}
}

/* Receive from all. */
static void
catch_up(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &running_jobs)
		receive_from(dlist_container(Job, running_node, iter.cur));
}

/* ----------------------------------------------------------------
 *		The wire: settings collected
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
 * Serialize the session's settings into a buffer that has held them before; false
 * where it is too small by now.
 *
 * To ask first how much room it takes costs as much as to serialize them.  The only
 * error of SerializeGUCState() is that there is not enough.
 */
static bool
serialize_into(StringInfo buffer)
{
	BeforeError before = before_error();
	volatile bool fits = false;

	PG_TRY();
	{
		SerializeGUCState(buffer->maxlen, buffer->data);
		fits = true;
	}
	PG_CATCH();
	{
		go_on_after_error(&before);
	}
	PG_END_TRY();
	return fits;
}

/*
 * Have the session's settings changed?  serialized is what they were the last
 * time, and is brought up to date.
 */
static bool
settings_changed(StringInfo serialized)
{
	static StringInfoData scratch = {0};
	bool		changed;

	if (scratch.data == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(&scratch);
		MemoryContextSwitchTo(oldcontext);
	}
	resetStringInfo(&scratch);
	if (serialized->len == 0 || !serialize_into(&scratch))
	{
		enlargeStringInfo(&scratch, EstimateGUCStateSpace());
		SerializeGUCState(scratch.maxlen, scratch.data);
	}
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
	resetStringInfo(&my_settings);
	collect_settings(&my_settings);
	settings_generation++;
}

/* ----------------------------------------------------------------
 *		The wire: settings and users restored
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
 * Make this session the same as the launcher's, in a transaction.  The level
 * is that of warnings of the launcher's settings.
 */
static void
adopt_session(bool settings_too, int warning_level)
{
	forget_statements();
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

/* Show the label of the job in pg_stat_activity, as versions from 2.0 on do. */
static void
show_label(void)
{
	JobInfo		info;
	char	   *name;

	read_job_info(my_body, &info);
	name = psprintf("%s:%s", LIBRARY_NAME, info.label);
	/* Or the server says that it does. */
	name[pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1)] = '\0';
	(void) set_config_option("application_name", name, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SET, true, ERROR, false);
	pfree(name);
}

/* Take over from a request what it says of the launcher's session. */
static void
take_session(Request *request)
{
	SharedSettings *shared = dsa_get_address(pool_area, my_body->settings);

	if (shared->id != session_settings_id)
	{
		/* Other sessions may have the same. */
		if (shared->size != session_settings.len ||
			memcmp(shared->data, session_settings.data, shared->size) != 0)
		{
			resetStringInfo(&session_settings);
			appendBinaryStringInfo(&session_settings, shared->data,
								   shared->size);
			session_stale = true;
		}
		session_settings_id = shared->id;
	}
	session_user_id = request->session_user;
	session_role = request->role;

	/* What one session has made us plan is nothing to another. */
	if (pool->jobs[me->job].session != last_session)
		forget_statements();
	last_session = pool->jobs[me->job].session;

	if (session_stale ||
		session_user_id != GetSessionUserId() ||
		session_role != GetCurrentRoleId())
		adopt_session(session_stale, WARNING);
}

/* ----------------------------------------------------------------
 *		The pool
 *
 * Slots for background processes are the cluster's and few, sessions are many.
 * So a worker is nobody's: it runs the jobs of any session that connects as the
 * same user to the same database, one after the other.  A job that finds no
 * worker is queued with others of its kind, whether its session waits for it or
 * not; a worker that has ended its job takes the first one, and wakes nobody
 * else.  Who cannot have a process, since slots are out, has one that waits for
 * jobs of another kind make way; and a worker that ends its job makes way where
 * somebody has waited longer than the first of its own queue.
 *
 * Names: a kind, see there; a job, which both its session and the pool hold; and
 * a worker, which is a place for a process.
 * ----------------------------------------------------------------
 */

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

static Size
pool_size(void)
{
	return add_size(offsetof(Pool, workers),
					mul_size(max_worker_processes, sizeof(PoolWorker)));
}

/* A pool of another layout has another name. */
static const char *
pool_name(void)
{
	static char name[NAMEDATALEN];

	snprintf(name, sizeof(name), "pg_background.%d.%d", SERVER_MAJOR,
			 (int) LAYOUT);
	return name;
}

/* Make a new pool at this place. */
static void
init_pool(void *place)
{
	Pool	   *new = place;

	memset(new, 0, pool_size());
	new->head.magic = POOL_MAGIC;
	if (!pg_strong_random(&new->head.nonce, sizeof(new->head.nonce)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random numbers")));
	new->head.workers = offsetof(Pool, workers);
	new->head.worker_size = sizeof(PoolWorker);
	new->tranche = new_lock_tranche(LIBRARY_NAME);
	LWLockInitialize(&new->lock, new->tranche);
	ConditionVariableInit(&new->memory_freed);
	new->max_worker_number = -1;

	for (int i = 0; i < MAX_SHARED_JOBS; i++)
	{
		pg_atomic_init_u32(&new->jobs[i].state, JOB_FREE);
		pg_atomic_init_u32(&new->jobs[i].launcher_waits, 0);
		new->jobs[i].next = i + 1 < MAX_SHARED_JOBS ? i + 1 : -1;
	}
	for (int i = 0; i < max_worker_processes; i++)
	{
		pg_atomic_init_u32(&new->workers[i].state, WORKER_FREE);
		new->workers[i].job = -1;
		new->workers[i].procno = -1;
	}
}

/*
 * Find the memory for bodies and settings, or make it.  Of who has made the pool,
 * that may have failed.
 *
 * Errors: those of dynamic shared memory.
 */
static void
attach_area(Pool *found)
{
	LWLockAcquire(&found->lock, LW_EXCLUSIVE);
	if (found->area == DSM_HANDLE_INVALID)
	{
		pool_area = dsa_create(found->tranche);
		dsa_pin(pool_area);
		found->area = dsa_get_handle(pool_area);
	}
	LWLockRelease(&found->lock);
	if (pool_area == NULL)
		pool_area = dsa_attach(found->area);
	dsa_pin_mapping(pool_area);
}

/*
 * Find the pool, or make it.  The mapping lasts as long as the process.
 *
 * Errors: those of dynamic shared memory.
 */
static void
attach_pool(void)
{
	MemoryContext oldcontext;
	Pool	   *found;

	if (pool != NULL)
		return;

	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	found = named_segment(pool_name(), pool_size(), init_pool);
	register_lock_tranche(found->tranche, LIBRARY_NAME);
	attach_area(found);
	MemoryContextSwitchTo(oldcontext);
	pool = found;
}

/*
 * Where an error was thrown while this lock or one of the area's is held, they are held
 * until a transaction is aborted.  Who catches one, or exits for one, and comes here
 * before has called LWLockReleaseAll().
 */
static void
lock_pool(void)
{
	LWLockAcquire(&pool->lock, LW_EXCLUSIVE);
}

/* Wake a process, once the lock is released. */
static void
wake_later(int procno)
{
	if (procno < 0)
		return;
	if (nto_wake < lengthof(to_wake))
		to_wake[nto_wake++] = procno;
	else
		SetLatch(&GetPGProcByNumber(procno)->procLatch);
}

static void
unlock_pool(void)
{
	int			count = nto_wake;
	int			procnos[lengthof(to_wake)];

	memcpy(procnos, to_wake, count * sizeof(int));
	nto_wake = 0;
	LWLockRelease(&pool->lock);
	for (int i = 0; i < count; i++)
		SetLatch(&GetPGProcByNumber(procnos[i])->procLatch);
}

static JobBody *
body_of(SharedJob *job)
{
	return dsa_get_address(pool_area, job->body);
}

static JobState
shared_state(int number)
{
	return pg_atomic_read_u32(&pool->jobs[number].state);
}

static void
set_shared_state(int number, JobState state)
{
	pg_atomic_write_u32(&pool->jobs[number].state, state);
}

static WorkerState
worker_state(PoolWorker *worker)
{
	return pg_atomic_read_u32(&worker->state);
}

static int
worker_number(PoolWorker *worker)
{
	return worker - pool->workers;
}

/* One that shares settings needs them no more. */
static void
drop_settings(dsa_pointer pointer)
{
	SharedSettings *settings;

	if (!DsaPointerIsValid(pointer))
		return;
	settings = dsa_get_address(pool_area, pointer);
	if (pg_atomic_sub_fetch_u32(&settings->references, 1) == 0)
		dsa_free(pool_area, pointer);
}

/* Give back the memory of a job, if there is any. */
static void
free_body(dsa_pointer pointer)
{
	JobBody    *body;

	if (!DsaPointerIsValid(pointer))
		return;
	body = dsa_get_address(pool_area, pointer);
	drop_settings(body->settings);
	if (DsaPointerIsValid(body->output))
		dsa_free(pool_area, body->output);
	dsa_free(pool_area, pointer);
}

/*
 * The functions from here to take_queued_job() are called with the lock held, and
 * raise no error but for want of memory to map a body.
 */

/* A kind that nothing needs any more, no process either, can be another. */
static bool
is_kind_needed(int number)
{
	Kind	   *kind = &pool->kinds[number];

	if (kind->nworkers > 0 || kind->njobs > 0 || kind->reserved > 0 ||
		kind->members > 0)
		return true;
	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		if (worker_state(&pool->workers[i]) != WORKER_FREE &&
			pool->workers[i].kind == number)
			return true;
	}
	return false;
}

static void
free_kind(int number)
{
	Kind	   *kind = &pool->kinds[number];

	kind->used = false;
	if (kind->counted_with != number)
		pool->kinds[kind->counted_with].members--;
}

/* Free a private kind. */
static void
free_kind_if_unneeded(int number)
{
	Kind	   *kind = &pool->kinds[number];

	if (kind->used && kind->session != 0 && !is_kind_needed(number))
		free_kind(number);
}

/* A number for a new kind; -1 where all are needed. */
static int
free_kind_number(void)
{
	for (int i = 0; i < pool->nkinds; i++)
	{
		if (!pool->kinds[i].used)
			return i;
	}
	if (pool->nkinds < MAX_KINDS)
		return pool->nkinds++;
	for (int i = 0; i < MAX_KINDS; i++)
	{
		if (!is_kind_needed(i))
		{
			free_kind(i);
			return i;
		}
	}
	return -1;
}

/* Find a kind, or make it.  Returns -1 where there are too many. */
static int
get_kind(Oid database, Oid login_user, uint32 connection_flags, uint64 session)
{
	int			number;
	int			counted_with = -1;
	Kind	   *kind;

	for (int i = 0; i < pool->nkinds; i++)
	{
		kind = &pool->kinds[i];
		if (kind->used && kind->database == database &&
			kind->login_user == login_user &&
			kind->connection_flags == connection_flags &&
			kind->session == session)
			return i;
	}

	/* Counters are those of a database and a user. */
	if (session != 0 || connection_flags != 0)
	{
		counted_with = get_kind(database, login_user, 0, 0);
		if (counted_with < 0)
			return -1;
		pool->kinds[counted_with].members++;
	}
	number = free_kind_number();
	if (number < 0)
	{
		if (counted_with >= 0)
			pool->kinds[counted_with].members--;
		return -1;
	}
	kind = &pool->kinds[number];
	memset(kind, 0, sizeof(Kind));
	kind->used = true;
	kind->database = database;
	kind->login_user = login_user;
	kind->connection_flags = connection_flags;
	kind->session = session;
	kind->counted_with = counted_with >= 0 ? counted_with : number;
	kind->first_idle = kind->first_job = kind->last_job = kind->reserver = -1;
	return number;
}

static PoolCounters *
counters_of(int kind)
{
	return &pool->kinds[pool->kinds[kind].counted_with].counters;
}

/* Put a job into its kind's queue, as the last one or, given back, the first. */
static void
enqueue_job(int number, bool first)
{
	SharedJob  *job = &pool->jobs[number];
	Kind	   *kind = &pool->kinds[job->kind];

	job->worker = -1;
	job->previous = first ? -1 : kind->last_job;
	job->next = first ? kind->first_job : -1;
	if (job->previous >= 0)
		pool->jobs[job->previous].next = number;
	else
		kind->first_job = number;
	if (job->next >= 0)
		pool->jobs[job->next].previous = number;
	else
		kind->last_job = number;
	kind->njobs++;
	job->pool_holds = true;
	set_shared_state(number, JOB_QUEUED);
}

static void
dequeue_job(int number)
{
	SharedJob  *job = &pool->jobs[number];
	Kind	   *kind = &pool->kinds[job->kind];

	if (job->previous >= 0)
		pool->jobs[job->previous].next = job->next;
	else
		kind->first_job = job->next;
	if (job->next >= 0)
		pool->jobs[job->next].previous = job->previous;
	else
		kind->last_job = job->previous;
	kind->njobs--;
}

/* A job does not wait for a worker any more. */
static void
discharge_job(SharedJob *job)
{
	pool->charged -= job->charged;
	if (job->charged > 0 && pool->memory_waiters > 0)
		ConditionVariableBroadcast(&pool->memory_freed);
	job->charged = 0;
}

/*
 * Free a job that neither its session nor the pool needs any more.  Returns its
 * body, for free_body() after the lock was released; or InvalidDsaPointer.
 */
static dsa_pointer
free_shared_job(int number)
{
	SharedJob  *job = &pool->jobs[number];
	dsa_pointer body = job->body;

	if (job->launcher_holds || job->pool_holds)
		return InvalidDsaPointer;
	discharge_job(job);
	if (job->counted)
	{
		pool->ncharged--;
		job->counted = false;
	}
	job->body = InvalidDsaPointer;
	set_shared_state(number, JOB_FREE);
	job->next = pool->free_job;
	pool->free_job = number;
	free_kind_if_unneeded(job->kind);
	return body;
}

/* May a job begin, as far as its session's own limit goes? */
static bool
may_begin(SharedJob *job)
{
	int			running = 0;

	if (job->max_workers == 0 ||
		pool->nworkers - pool->nidle < job->max_workers)
		return true;
	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		PoolWorker *worker = &pool->workers[i];

		running += worker_state(worker) != WORKER_FREE && worker->job >= 0 &&
			pool->jobs[worker->job].session == job->session &&
			pool->jobs[worker->job].max_workers > 0 &&
			!pool->jobs[worker->job].said_done;
	}
	return running < job->max_workers;
}

/* Is a worker's PID one that the job's session knows another job by? */
static bool
is_excluded(SharedJob *job, pid_t pid)
{
	JobBody    *body;
	int32	   *pids;

	if (!job->excludes)
		return false;
	body = body_of(job);
	pids = (int32 *) (body->area + MAXALIGN(body->request.sql_size) +
					  MAXALIGN(body->request.params_size));
	for (int i = 0; i < body->request.nexcluded; i++)
	{
		if (pids[i] == pid)
			return true;
	}
	return false;
}

/* A worker is not idle any more. */
static void
unlist_idle(PoolWorker *worker)
{
	Kind	   *kind = &pool->kinds[worker->kind];

	if (worker->previous_idle >= 0)
		pool->workers[worker->previous_idle].next_idle = worker->next_idle;
	else
		kind->first_idle = worker->next_idle;
	if (worker->next_idle >= 0)
		pool->workers[worker->next_idle].previous_idle = worker->previous_idle;
	pool->nidle--;
}

static void
list_idle(PoolWorker *worker)
{
	Kind	   *kind = &pool->kinds[worker->kind];

	worker->previous_idle = -1;
	worker->next_idle = kind->first_idle;
	if (kind->first_idle >= 0)
		pool->workers[kind->first_idle].previous_idle = worker_number(worker);
	kind->first_idle = worker_number(worker);
	worker->idle_since = GetCurrentTimestamp();
	pg_atomic_write_u32(&worker->state, WORKER_IDLE);
	pool->nidle++;
}

/* A worker is to end its process as soon as it can. */
static void
make_leave(PoolWorker *worker)
{
	if (worker_state(worker) == WORKER_LEAVING)
		return;
	worker->was_idle = worker_state(worker) == WORKER_IDLE;
	if (worker->was_idle)
		unlist_idle(worker);
	pool->kinds[worker->kind].nworkers--;
	pool->nleaving++;
	pg_atomic_write_u32(&worker->state, WORKER_LEAVING);
	wake_later(worker->procno);
}

/*
 * The idle worker that a job is to have, or NULL: the one that its session has
 * used last, else the one that has worked last, which least likely sleeps.
 */
static PoolWorker *
find_idle_worker(SharedJob *job)
{
	Kind	   *kind = &pool->kinds[job->kind];

	if (kind->first_idle < 0)
		return NULL;
	if (job->preferred >= 0)
	{
		PoolWorker *worker = &pool->workers[job->preferred];

		if (worker_state(worker) == WORKER_IDLE && worker->kind == job->kind &&
			!is_excluded(job, worker->pid))
			return worker;
	}
	for (int i = kind->first_idle; i >= 0; i = pool->workers[i].next_idle)
	{
		if (!is_excluded(job, pool->workers[i].pid))
			return &pool->workers[i];
	}
	return NULL;
}

/* Give a job, which is in no queue any more, to a worker. */
static void
assign_job(int number, PoolWorker *worker)
{
	SharedJob  *job = &pool->jobs[number];
	TimestampTz now = GetCurrentTimestamp();

	if (worker_state(worker) == WORKER_IDLE)
		unlist_idle(worker);
	worker->job = number;
	job->worker = worker_number(worker);
	counters_of(job->kind)->wait_time += now - job->queued_at;
	job->queued_at = now;
	set_shared_state(number, JOB_STARTING);
	if (worker_state(worker) != WORKER_STARTING)
		pg_atomic_write_u32(&worker->state, WORKER_RUNNING);
}

static ProcessLimit
find_limit(Kind *kind)
{
	int			of_role = 0;
	bool		leaving = me != NULL && worker_state(me) == WORKER_LEAVING;

	/* One that looks after its queue as it leaves makes way for another. */
	if (max_total_workers >= 0 && pool->nworkers - leaving >= max_total_workers)
		return LIMIT_TOTAL;
	for (int i = 0; kind->role_limit > 0 && i <= pool->max_worker_number; i++)
	{
		PoolWorker *worker = &pool->workers[i];

		of_role += worker_state(worker) != WORKER_FREE &&
			!(leaving && worker == me) &&
			pool->kinds[worker->kind].login_user == kind->login_user;
	}
	if (kind->role_limit > 0 && of_role >= kind->role_limit)
		return LIMIT_ROLE;
	if (pool->nworkers >= max_worker_processes)
		return LIMIT_SLOTS;
	return LIMIT_NONE;
}

/* There is no process for this place, and will be none. */
static void
free_starting(PoolWorker *worker)
{
	pg_atomic_write_u32(&worker->state, WORKER_FREE);
	pool->kinds[worker->kind].nworkers--;
	pool->nworkers--;
}

/*
 * A process was started, and has loaded another build of this library.  Its job, if
 * it has one, will not be run.
 */
static void
abandon_worker(PoolWorker *worker)
{
	if (worker->job >= 0)
	{
		SharedJob  *job = &pool->jobs[worker->job];

		body_of(job)->lost_error = worker->head.error;
		counters_of(job->kind)->failed++;
		set_shared_state(worker->job, JOB_LOST);
		job->pool_holds = false;
		wake_later(job->launcher);
		free_body(free_shared_job(worker->job));
		worker->job = -1;
	}
	free_starting(worker);
	free_kind_if_unneeded(worker->kind);
}

/* A place for a worker that nobody has; -1 where there is none. */
static int
free_place(void)
{
	for (int i = 0; i < max_worker_processes; i++)
	{
		PoolWorker *worker = &pool->workers[i];

		if (worker_state(worker) == WORKER_STARTING && worker->head.error != 0)
			abandon_worker(worker);
		if (worker_state(worker) == WORKER_FREE)
			return i;
	}
	return -1;
}

/* Take such a place for a process that starts. */
static PoolWorker *
make_place(int number, int kind)
{
	PoolWorker *worker = &pool->workers[number];

	worker->head.generation++;
	worker->head.starter = my_procno();
	worker->head.error = 0;
	worker->pid = 0;
	worker->procno = -1;
	worker->kind = kind;
	worker->job = -1;
	worker->connected = false;
	worker->signaled = false;
	memset(&worker->info, 0, sizeof(JobInfo));
	pg_atomic_write_u32(&worker->state, WORKER_STARTING);
	pool->kinds[kind].nworkers++;
	pool->nworkers++;
	pool->max_worker_number = Max(pool->max_worker_number, number);
	return worker;
}

/*
 * Ask the postmaster for a process of a kind, to begin with this job, or -1 for
 * whatever is in the queue by then.  Returns which limit is in the way.
 *
 * Nothing here fails.  Where the process cannot be forked, the postmaster tries
 * again.
 */
static ProcessLimit
start_process(int kind_number, int job)
{
	Kind	   *kind = &pool->kinds[kind_number];
	ProcessLimit limit = find_limit(kind);
	BackgroundWorker registration;
	WorkerStart start;
	PoolWorker *worker;
	int			number = free_place();

	if (limit == LIMIT_NONE && number < 0)
		limit = LIMIT_SLOTS;
	if (limit == LIMIT_SLOTS)
		pool->last_refusal = GetCurrentTimestamp();
	if (limit != LIMIT_NONE)
		return limit;
	worker = make_place(number, kind_number);

	memset(&start, 0, sizeof(start));
	start.magic = POOL_MAGIC;
	start.nonce = pool->head.nonce;
	start.pool_size = pool_size();
	start.worker = number;
	start.generation = worker->head.generation;
	start.database = kind->database;
	start.login_user = kind->login_user;
	start.connection_flags = kind->connection_flags;
	strlcpy(start.pool_name, pool_name(), NAMEDATALEN);
	StaticAssertStmt(sizeof(start) <= BGW_EXTRALEN, "WorkerStart is too large");

	memset(&registration, 0, sizeof(registration));
	registration.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	registration.bgw_start_time = BgWorkerStart_ConsistentState;
	registration.bgw_restart_time = RESTART_TIME;
	strlcpy(registration.bgw_library_name, library_name(),
			sizeof(registration.bgw_library_name));
	strlcpy(registration.bgw_function_name, "pg_background_worker_main",
			BGW_MAXLEN);
	strlcpy(registration.bgw_name, WORKER_NAME, BGW_MAXLEN);
	strlcpy(registration.bgw_type, WORKER_NAME, BGW_MAXLEN);
	memcpy(registration.bgw_extra, &start, sizeof(start));

	/*
	 * The process looks at its place under the lock, which we hold; one that has
	 * loaded another build does so at once.
	 */
	if (!RegisterDynamicBackgroundWorker(&registration, NULL))
	{
		free_starting(worker);
		pool->last_refusal = GetCurrentTimestamp();
		return LIMIT_SLOTS;
	}

	/* What the last one to end has left is this one's now. */
	pool->last_exit = 0;
	counters_of(kind_number)->started++;
	if (job >= 0)
		assign_job(job, worker);
	return LIMIT_NONE;
}

/*
 * A kind could have more processes if there were slots: have one that waits for
 * jobs of another kind make way, the longest waiting.
 */
static void
make_room(int kind_number, ProcessLimit limit)
{
	Kind	   *kind = &pool->kinds[kind_number];
	PoolWorker *longest = NULL;

	/*
	 * One that has just ended has made it, once the postmaster sees that.  What no
	 * session waits for, workers of its kind will mostly take soon.
	 */
	if (pool->nleaving >= Max(kind->njobs, 1) ||
		(kind->nworkers > 0 && kind->njobs > 0 &&
		 !pool->jobs[kind->first_job].awaited) ||
		(limit == LIMIT_SLOTS &&
		 GetCurrentTimestamp() - pool->last_exit < REAP_TIME * INT64CONST(1000)))
		return;
	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		PoolWorker *worker = &pool->workers[i];

		if (worker_state(worker) == WORKER_IDLE &&
			pool->kinds[worker->kind].reserved == 0 &&
			(longest == NULL || worker->idle_since < longest->idle_since))
			longest = worker;
	}
	if (longest != NULL)
		make_leave(longest);
}

/*
 * Is it worth asking for a slot?  One that was refused is asked for again when a
 * process of the pool has ended, and else now and then, since nobody tells us of
 * those of others.
 */
static bool
is_slot_likely(Kind *kind)
{
	TimestampTz now;

	if (pool->last_refusal == 0 || kind->nworkers == 0)
		return true;
	now = GetCurrentTimestamp();
	return now - pool->last_exit < REAP_TIME * INT64CONST(1000) ||
		now - pool->last_refusal > INT64CONST(1000000);
}

/* Has a worker just said to the job's session that it is done? */
static bool
is_ending_job(PoolWorker *worker, SharedJob *job)
{
	return worker_state(worker) == WORKER_RUNNING &&
		worker->kind == job->kind && !worker->signaled && worker->job >= 0 &&
		pool->jobs[worker->job].said_done &&
		pool->jobs[worker->job].session == job->session &&
		!is_excluded(job, worker->pid);
}

/*
 * Has the worker that the job's session used last?  In some microseconds it takes
 * the next job of its queue.
 */
static bool
is_worker_ending_job(SharedJob *job)
{
	return job->preferred >= 0 &&
		is_ending_job(&pool->workers[job->preferred], job);
}

/* Has any? */
static bool
is_any_ending_job(SharedJob *job)
{
	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		if (is_ending_job(&pool->workers[i], job))
			return true;
	}
	return false;
}

/*
 * Give workers to the jobs of a kind's queue, in order, as far as there are any.
 * Returns which limit is in the way of the next one.
 */
static ProcessLimit
dispatch(int kind_number)
{
	Kind	   *kind = &pool->kinds[kind_number];
	uint64		too_many = 0;	/* a session that may begin no more */
	uint64		served = 0;		/* one whose worker is about to take a job */
	int			next;

	for (int i = kind->first_job; i >= 0; i = next)
	{
		SharedJob  *job = &pool->jobs[i];
		PoolWorker *worker;
		ProcessLimit limit = LIMIT_SLOTS;

		next = job->next;
		if (job->session == too_many)
			continue;
		if (!may_begin(job))
		{
			too_many = job->session;
			continue;
		}
		/* Such a worker takes one job. */
		if (job->session != served && is_worker_ending_job(job))
		{
			served = job->session;
			continue;
		}
		worker = find_idle_worker(job);
		if (worker != NULL)
		{
			dequeue_job(i);
			assign_job(i, worker);
			wake_later(worker->procno);
			continue;
		}
		if (job->session != served && is_any_ending_job(job))
		{
			served = job->session;
			continue;
		}
		if (is_slot_likely(kind))
		{
			limit = start_process(kind_number, i);
			if (limit == LIMIT_NONE)
			{
				dequeue_job(i);
				continue;
			}
		}
		if (limit != LIMIT_ROLE)
			make_room(kind_number, limit);
		return limit;
	}
	return LIMIT_NONE;
}

/*
 * The ticket of what waits first for a worker of a kind, a job of its queue or else a
 * commit; past all others where nothing does.
 */
static int64
first_ticket(Kind *kind)
{
	if (kind->used && kind->njobs > 0)
		return pool->jobs[kind->first_job].ticket;
	if (kind->used && kind->reserver >= 0)
		return kind->reserve_ticket;
	return PG_INT64_MAX;
}

/*
 * Is a worker that has ended its job to make way for another kind, which has
 * waited longer for its first process than what is next in the worker's queue?
 */
static bool
should_make_way(Kind *kind)
{
	int64		ours = kind->njobs > 0 ? first_ticket(kind) : PG_INT64_MAX;
	int			starving = 0;

	if (pool->last_refusal == 0 &&
		(max_total_workers < 0 || pool->nworkers < max_total_workers))
		return false;
	for (int i = 0; i < pool->nkinds; i++)
		starving += pool->kinds[i].nworkers == 0 &&
			first_ticket(&pool->kinds[i]) < ours;
	return starving > pool->nleaving;
}

/* A slot becomes free: wake who has waited longest for a process. */
static void
wake_starving(void)
{
	int64		longest = PG_INT64_MAX;
	int			procno = -1;

	for (int i = 0; i < pool->nkinds; i++)
	{
		Kind	   *kind = &pool->kinds[i];

		if (first_ticket(kind) < longest)
		{
			longest = first_ticket(kind);
			procno = kind->njobs > 0 ? pool->jobs[kind->first_job].launcher :
				kind->reserver;
		}
	}
	wake_later(procno);
}

/* The most workers that may wait for jobs, of all sessions */
static int
idle_share(void)
{
	return Max(max_worker_processes / 4, 1);
}

/*
 * The process of a job that has waited longest for it to start; NULL = none that
 * another worker could have.  Where the session has told the process's PID, it is
 * not another's any more.
 */
static PoolWorker *
find_starting_worker(PoolWorker *worker)
{
	PoolWorker *found = NULL;

	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		PoolWorker *starting = &pool->workers[i];
		SharedJob  *job;

		if (worker_state(starting) != WORKER_STARTING ||
			starting->kind != worker->kind || starting->job < 0)
			continue;
		job = &pool->jobs[starting->job];
		if ((starting->pid == 0 || !job->tell) &&
			!is_excluded(job, worker->pid) &&
			(found == NULL || job->ticket < pool->jobs[found->job].ticket))
			found = starting;
	}
	return found;
}

/*
 * The next job for a worker; -1 where there is none.
 *
 * A job whose process has yet to start came before those of the queue.  On a busy
 * machine that takes as long as many jobs, and when it is there, the process finds
 * another in the queue.
 */
static int
take_queued_job(PoolWorker *worker)
{
	Kind	   *kind = &pool->kinds[worker->kind];
	PoolWorker *starting = kind->nworkers > 1 ?
		find_starting_worker(worker) : NULL;
	uint64		too_many = 0;

	if (starting != NULL)
	{
		int			number = starting->job;

		starting->job = -1;
		assign_job(number, worker);
		return number;
	}
	for (int i = kind->first_job; i >= 0; i = pool->jobs[i].next)
	{
		SharedJob  *job = &pool->jobs[i];

		if (job->session == too_many || is_excluded(job, worker->pid))
			continue;
		/* It is another's, who is there in a moment. */
		if (job->preferred != worker_number(worker) &&
			is_worker_ending_job(job))
			continue;
		if (!may_begin(job))
		{
			too_many = job->session;
			continue;
		}
		dequeue_job(i);
		assign_job(i, worker);
		return i;
	}
	return -1;
}

/* ----------------------------------------------------------------
 *		The worker: main loop
 * ----------------------------------------------------------------
 */

/*
 * Tell a session that has a library of 1.x why this process does not do what it
 * was started for.
 */
static void
tell_session_of_1_x(dsm_handle handle)
{
	dsm_segment *segment = dsm_attach(handle);
	SegmentHead *head;

	if (segment == NULL || dsm_segment_map_length(segment) < sizeof(SegmentHead))
		return;
	head = dsm_segment_address(segment);
	if (head->magic >> 32 != MAGIC_FAMILY)
		return;
	head->pid = MyProcPid;
	if (pg_atomic_exchange_u32(&head->pinned, 0) != 0)
		dsm_unpin_segment(handle);
	strlcpy(head->message, replaced_error.message, LAST_ERROR_SIZE);
	strlcpy(head->hint, replaced_error.hint, LAST_ERROR_SIZE);
	head->sqlerrcode = replaced_error.sqlerrcode;
}

/*
 * This process was started by a session that has another build of the library:
 * tell it so.  main_arg is the handle of its segment, where that is one of 1.x.
 */
static void
tell_replaced(Datum main_arg)
{
	PoolHead   *head;
	WorkerHead *worker;

	ereport(LOG,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s", replaced_error.message),
			 errhint("%s", replaced_error.hint)));
	if (my_start.magic == 0)
		tell_session_of_1_x(DatumGetUInt32(main_arg));
	if (my_start.magic >> 32 != MAGIC_FAMILY)
		return;
	head = named_segment(my_start.pool_name, my_start.pool_size, NULL);
	if (head == NULL || head->nonce != my_start.nonce)
		return;
	worker = (WorkerHead *) ((char *) head + head->workers +
							 my_start.worker * head->worker_size);
	if (worker->generation != my_start.generation)
		return;
	worker->error = replaced_error.sqlerrcode;
	SetLatch(&GetPGProcByNumber(worker->starter)->procLatch);
}

/* What the worker says from here on goes to its jobs' launchers. */
static void
init_output(void)
{
	output_context = AllocSetContextCreate(TopMemoryContext,
										   "pg_background output",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextAllowInCriticalSection(output_context, true);
	MemoryContextSwitchTo(output_context);
	initStringInfo(&output);
	MemoryContextSwitchTo(TopMemoryContext);
	output_mode = OUTPUT_KEPT;
	PqCommMethods = &output_methods;
	whereToSendOutput = DestRemote;
	FrontendProtocol = PG_PROTOCOL_LATEST;

	next_emit_log_hook = emit_log_hook;
	emit_log_hook = before_logging;
}

/*
 * Connect as the user whose jobs these are.
 *
 * The client is a launcher, which reads the database's encoding, whatever the
 * role or the database have for client_encoding: the server might not even have a
 * conversion to it.  The database's is known only afterwards.
 */
static void
connect_to_database(void)
{
	SetConfigOption("client_encoding", "SQL_ASCII", PGC_BACKEND,
					PGC_S_OVERRIDE);
	BackgroundWorkerInitializeConnectionByOid(my_start.database,
											  my_start.login_user,
											  my_start.connection_flags);
	SetConfigOption("client_encoding", GetDatabaseEncodingName(), PGC_BACKEND,
					PGC_S_OVERRIDE);
	process_session_preload_libraries();

	StartTransactionCommand();
	database_hash = GetSysCacheHashValue1(DATABASEOID,
										  ObjectIdGetDatum(MyDatabaseId));
	user_hash = GetSysCacheHashValue1(AUTHOID,
									  ObjectIdGetDatum(my_start.login_user));
	watch_logins(note_outdated);
	login_hash = hash_login();
	CommitTransactionCommand();
}

/*
 * The worker's main function.
 *
 * No resource owner is made: where there is none, a mapping lasts as long as
 * the process.
 */
void
pg_background_worker_main(Datum main_arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	/* Whatever cannot be done will not be possible in a second either. */
	MemoryContextSwitchTo(TopMemoryContext);
	memcpy(&my_start, MyBgworkerEntry->bgw_extra, sizeof(my_start));
	if (my_start.magic != POOL_MAGIC)
	{
		tell_replaced(main_arg);
		proc_exit(0);
	}
	attach_pool();
	if (pool->head.nonce != my_start.nonce || !take_place())
		proc_exit(0);
	before_shmem_exit(leave_pool, (Datum) 0);
	before_shmem_exit(leave_jobs, (Datum) 0);
	before_shmem_exit(leave_words, (Datum) 0);
	map_first_job();

	HOLD_CANCEL_INTERRUPTS();
	init_output();
	connect_to_database();
	job_timeout_id = RegisterTimeout(USER_TIMEOUT, handle_job_timeout);
	MessageContext = AllocSetContextCreate(TopMemoryContext, "MessageContext",
										   ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&session_settings);
	initStringInfo(&session_serialized);

	enter_service();
	while (wait_for_work())
	{
		begin_job();
		run_job();
		if (worker_state(me) == WORKER_LEAVING)
			break;
		reset_session();
	}
	proc_exit(leave_work());
}

/* ----------------------------------------------------------------
 *		The worker: its place in the pool
 * ----------------------------------------------------------------
 */

/*
 * Something has changed in what says who may log in, to our database, and as
 * what: a worker that has logged in before takes no more jobs.  A hash of 0 stands
 * for anything.
 *
 * Of the database itself, VACUUM changes what is nothing to us: that takes a look.
 */
static void
note_outdated(Datum arg, CatalogCache cache, uint32 hash)
{
	if (cache == DATABASEOID)
		database_changed |= hash == 0 || hash == database_hash;
	else if (cache != AUTHOID || hash == 0 || hash == user_hash)
		outdated = true;
}

/*
 * A hash of our database's row and of what ALTER DATABASE and ALTER ROLE have set
 * for us, in a transaction.  The server tells nobody of changes to the settings.
 *
 * A row that VACUUM has changed in place is from the same transaction as before.
 */
static uint32
hash_login(void)
{
	const Oid	databases[] = {MyDatabaseId, InvalidOid};
	const Oid	roles[] = {GetAuthenticatedUserId(), InvalidOid};
	HeapTuple	database = SearchSysCache1(DATABASEOID,
										   ObjectIdGetDatum(MyDatabaseId));
	Relation	relation;
	uint32		hash = 0;

	if (HeapTupleIsValid(database))
	{
		hash = HeapTupleHeaderGetRawXmin(database->t_data);
		ReleaseSysCache(database);
	}
	relation = table_open(DbRoleSettingRelationId, AccessShareLock);

	for (int i = 0; i < 4; i++)
	{
		ScanKeyData keys[2];
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase,
					BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(databases[i / 2]));
		ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole,
					BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(roles[i % 2]));
		scan = systable_beginscan(relation, DbRoleSettingDatidRolidIndexId,
								  true, NULL, 2, keys);
		while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		{
			uint32		of_tuple = DatumGetUInt32(hash_any((unsigned char *) tuple->t_data,
														   tuple->t_len));

			hash = hash_combine(hash, of_tuple);
		}
		systable_endscan(scan);
	}
	table_close(relation, AccessShareLock);
	return hash;
}

/*
 * Has something changed since we logged in, so that a new session would be
 * another?
 *
 * Of what was set for sessions that log in, that takes a look at the catalog: for
 * each session that may have logged in later or knows of a change, for one that has
 * changed it itself, and once a second.  A number of -1 is no job.
 */
static bool
is_outdated(int number)
{
	static TimestampTz last_look = 0;
	TimestampTz now = GetCurrentTimestamp();
	bool		look = now - last_look > INT64CONST(1000000);

	AcceptInvalidationMessages();
	if (outdated)
		return true;
	look |= database_changed;
	if (number >= 0)
	{
		SharedJob  *job = &pool->jobs[number];

		look |= job->login > me->checked_login ||
			map_body(number)->request.new_login;
	}
	if (look)
	{
		last_look = now;
		database_changed = false;
		StartTransactionCommand();
		outdated |= hash_login() != login_hash;
		CommitTransactionCommand();
	}
	if (number >= 0 && !outdated)
		me->checked_login = Max(me->checked_login, pool->jobs[number].login);
	return outdated;
}

/*
 * Does somebody want our database for himself, as DROP DATABASE does?  Such a
 * command waits for five seconds until all others are gone.
 */
static bool
is_database_wanted(void)
{
	LOCKTAG		tag;
	bool		wanted;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	StartTransactionCommand();
	wanted = LockAcquire(&tag, RowExclusiveLock, false, true) ==
		LOCKACQUIRE_NOT_AVAIL;
	if (!wanted)
		(void) LockRelease(&tag, RowExclusiveLock, false);
	CommitTransactionCommand();
	return wanted;
}

/*
 * How many workers may wait for jobs after one of this request?
 */
static int
most_idle(Request *request)
{
	return request->max_idle_workers < 0 ? idle_share() :
		Min(request->max_idle_workers, idle_share());
}

/* Are there more workers than the administrator allows, by now? */
static bool
are_too_many(void)
{
	return max_total_workers >= 0 &&
		pool->nworkers - pool->nleaving > max_total_workers;
}

/*
 * This worker has nothing to do: it takes the next job of its queue, waits for
 * one, or leaves.  Called with the lock held.
 */
static void
find_work(bool stays, int most, int timeout)
{
	Kind	   *kind = &pool->kinds[me->kind];

	/* Who is the last one to do what is queued, stays for that. */
	if (!stays || me->signaled || should_make_way(kind) ||
		(kind->nworkers > 1 && kind->reserved == 0 && are_too_many()))
		make_leave(me);
	else if (take_queued_job(me) >= 0)
	{
		/* A slot may have become free, which nobody else looks for. */
		if (kind->njobs > 0 && pool->last_refusal == 0)
			(void) dispatch(me->kind);
	}
	else if (kind->reserved == 0 &&
			 (most == 0 || kind->closed || are_too_many()))
		make_leave(me);
	else
	{
		list_idle(me);
		idle_deadline =
			TimestampTzPlusMilliseconds(me->idle_since,
										pool->nidle > most ?
										Min(timeout, SPARE_IDLE_TIMEOUT) :
										timeout);
	}
}

/*
 * The job at hand has said all.  Nothing here can be its error any more.
 *
 * From here on the worker may be given another, which it takes when it has made
 * its session ready for that.
 */
static void
finish_job(bool failed, bool canceled, int64 run_time, bool stays)
{
	int			number = me->job;
	SharedJob  *job = &pool->jobs[number];
	PoolCounters *counters;
	Request		request = my_body->request;
	JobInfo		info;
	dsa_pointer body;

	read_job_info(my_body, &info);
	my_body = NULL;
	lock_pool();
	counters = counters_of(me->kind);
	counters->run_time += run_time;
	if (canceled)
		counters->canceled++;
	else if (failed)
		counters->failed++;
	else
		counters->completed++;
	set_shared_state(number, JOB_DONE);
	if (job->launcher_holds && !job->forgotten)
		wake_later(job->launcher);
	job->pool_holds = false;
	discharge_job(job);
	me->job = -1;
	me->info = info;
	find_work(stays, most_idle(&request), request.idle_timeout);
	body = free_shared_job(number);
	unlock_pool();
	free_body(body);
}

/* A job that we were given is to have another worker. */
static void
give_back_job(void)
{
	lock_pool();
	enqueue_job(me->job, true);
	me->job = -1;
	make_leave(me);
	unlock_pool();
}

/* Leave, where nobody has given us a job meanwhile or will. */
static bool
try_to_leave(bool must)
{
	Kind	   *kind = &pool->kinds[me->kind];
	bool		left = false;

	lock_pool();
	if (worker_state(me) == WORKER_IDLE &&
		(must || kind->reserved == 0 || kind->nworkers > 1))
	{
		make_leave(me);
		left = true;
	}
	unlock_pool();
	return left;
}

/*
 * Of the kinds that could have another process, and whose next job no session waits
 * for, the one whose job has waited longest; -1 = none.  Called with the lock held.
 *
 * A kind that has workers counts only where its job has waited for so many
 * milliseconds, since mostly they soon take it.
 */
static int
find_deserted_kind(int patience)
{
	TimestampTz latest = GetCurrentTimestamp() - patience * INT64CONST(1000);
	int			found = -1;
	int64		longest = PG_INT64_MAX;

	for (int i = 0; i < pool->nkinds; i++)
	{
		Kind	   *kind = &pool->kinds[i];
		SharedJob  *job;
		ProcessLimit limit;

		if (!kind->used || (kind->first_job < 0 &&
							(kind->reserved == 0 || kind->nworkers > 0)))
			continue;
		job = kind->first_job >= 0 ? &pool->jobs[kind->first_job] : NULL;
		limit = find_limit(kind);
		if ((job != NULL && (job->awaited || !may_begin(job) ||
							 (kind->nworkers > 0 && job->queued_at > latest))) ||
			(limit != LIMIT_NONE && limit != LIMIT_SLOTS))
			continue;
		if (found < 0 || (job != NULL && job->ticket < longest))
		{
			found = i;
			longest = job != NULL ? job->ticket : PG_INT64_MAX;
		}
	}
	return found;
}

/*
 * This process ends of its own accord.  Where jobs are left that nobody looks after,
 * start another one; where there is no slot for it before ours is free, have the
 * postmaster start us again.  Returns the exit code, which is how to ask for that.
 */
static int
leave_work(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int			code;

	/* Until it is started again, its slot is of no use: one at a time. */
	lock_pool();
	if (pool->kinds[me->kind].first_job >= 0)
		(void) dispatch(me->kind);
	else if (pool->kinds[me->kind].reserved > 0 &&
			 pool->kinds[me->kind].nworkers == 0)
		(void) start_process(me->kind, -1);
	code = find_deserted_kind(me->was_idle ? DESERTED : INT_MAX) >= 0 &&
		now - pool->last_restart > RESTART_TIME * INT64CONST(1500000);
	if (code != 0)
		pool->last_restart = now;
	unlock_pool();
	return code;
}

/*
 * Is the server about to shut down?  The postmaster says so in its file.
 *
 * AllocateFile() could raise an error, which is nothing for a process that exits.
 */
static bool
is_shutting_down(void)
{
	FILE	   *file = fopen("postmaster.pid", "r");
	char		line[MAXPGPATH];
	int			number = 0;
	bool		stopping = false;

	if (file == NULL)
		return false;
	while (fgets(line, sizeof(line), file) != NULL)
	{
		if (++number == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(line, PM_STATUS_STOPPING,
							   strlen(PM_STATUS_STOPPING)) == 0;
	}
	fclose(file);
	return stopping;
}

/*
 * Jobs that no session waits for, and that will not be run where the server shuts
 * down and we are the last process: the postmaster starts no other then, be it asked
 * for already.  Under the lock.
 */
static int
count_dropped_jobs(void)
{
	int			count = 0;

	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		PoolWorker *worker = &pool->workers[i];

		if (worker_state(worker) == WORKER_FREE)
			continue;
		if (worker->pid != 0)
			return 0;
		count += worker->job >= 0 && !pool->jobs[worker->job].awaited;
	}
	for (int k = 0; k < pool->nkinds; k++)
	{
		if (!pool->kinds[k].used)
			continue;
		for (int i = pool->kinds[k].first_job; i >= 0; i = pool->jobs[i].next)
			count += !pool->jobs[i].awaited;
	}
	return count;
}

/*
 * Can no worker of a kind connect, since we could not?  Another may have been
 * luckier, but for what is wrong with the user or the database.
 */
static bool
is_kind_locked_out(Kind *kind)
{
	if (kind->nworkers == 0)
		return true;
	if (fatal_error == ERRCODE_TOO_MANY_CONNECTIONS ||
		fatal_error == ERRCODE_ADMIN_SHUTDOWN)
		return false;
	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		PoolWorker *worker = &pool->workers[i];

		if (worker != me && worker_state(worker) != WORKER_FREE &&
			worker->kind == me->kind && worker->connected)
			return false;
	}
	return true;
}

/* Nothing could ever begin these jobs: what we have to say is their error. */
static void
fail_queue(Kind *kind)
{
	while (kind->first_job >= 0)
	{
		int			number = kind->first_job;
		SharedJob  *job = &pool->jobs[number];
		JobBody    *body = body_of(job);

		dequeue_job(number);
		if (output.len <= body->area_size)
		{
			memcpy(body->area, output.data, output.len);
			body->output_size = output.len;
		}
		else
			body->lost_error = ERRCODE_CONNECTION_FAILURE;
		counters_of(job->kind)->failed++;
		set_shared_state(number, JOB_LOST);
		wake_later(job->launcher);
		job->pool_holds = false;

		free_body(free_shared_job(number));
	}
}

/*
 * Has a worker that could run its job not begun with it, though it may?  Or could it
 * not even map what is to be done?  It is as well with another, whatever that is.
 */
static bool
is_untouched(int job)
{
	if (mapping_body)
		return shared_state(job) == JOB_STARTING;
	return me->connected && shared_state(job) == JOB_STARTING &&
		pg_atomic_read_u32(&map_body(job)->canceled) == 0;
}

/*
 * The process ends and has a job: one that it has not touched is for another, and
 * else there will be no more of it.  Returns its body, for free_body() after the
 * lock was released, or InvalidDsaPointer.  Called with the lock held.
 */
static dsa_pointer
leave_job(void)
{
	int			number = me->job;
	SharedJob  *job = &pool->jobs[number];
	bool		untouched = is_untouched(number);

	me->job = -1;
	if (untouched)
	{
		enqueue_job(number, true);
		return InvalidDsaPointer;
	}
	counters_of(me->kind)->failed++;
	set_shared_state(number, shared_state(number) == JOB_ENDED ?
					 JOB_DONE : JOB_LOST);
	job->pool_holds = false;
	if (job->launcher_holds)
		wake_later(job->launcher);
	return free_shared_job(number);
}

/*
 * The process ends, in three steps: it is given no more to do, and what its job has
 * still to say is left; its job ends; its place is free.
 *
 * Where there is no memory for a step, the process ends there once more, and goes
 * on with the next.
 */
static void
leave_words(int code, Datum arg)
{
	LWLockReleaseAll();
	lock_pool();
	make_leave(me);
	unlock_pool();
	if (me->job >= 0 && !is_untouched(me->job))
		leave_last_words();
}

/* The second step.  Also those jobs end that only this process could have begun. */
static void
leave_jobs(int code, Datum arg)
{
	Kind	   *kind = &pool->kinds[me->kind];
	dsa_pointer body = InvalidDsaPointer;

	/* There may be nobody to fail the jobs for, but the server. */
	bool		locked_out = code != 0 && !me->connected && !is_shutting_down();

	LWLockReleaseAll();
	lock_pool();
	if (me->job >= 0)
		body = leave_job();
	if (locked_out && !mapping_body && is_kind_locked_out(kind))
		fail_queue(kind);
	unlock_pool();
	free_body(body);
}

/* The third step. */
static void
leave_pool(int code, Datum arg)
{
	int			dropped = 0;

	LWLockReleaseAll();
	lock_pool();
	me->pid = 0;
	me->procno = -1;
	pg_atomic_write_u32(&me->state, WORKER_FREE);
	pool->nleaving--;
	pool->nworkers--;
	pool->last_exit = GetCurrentTimestamp();
	pool->last_refusal = 0;
	wake_starving();
	free_kind_if_unneeded(me->kind);
	if (!pool->dropped)
		dropped = count_dropped_jobs();
	unlock_pool();

	if (dropped > 0 && code != 0 && is_shutting_down())
	{
		pool->dropped = true;
		ereport(LOG,
				(errmsg("dropped %d queued background jobs", dropped),
				 errdetail("The server shuts down.")));
	}
}

/*
 * Take the place in the pool that was made for this process; or another, of
 * whatever kind, where the postmaster has started it again and there are jobs that
 * nobody else looks after.  Returns false where there is nothing to do.
 */
static bool
take_place(void)
{
	PoolWorker *worker = &pool->workers[my_start.worker];
	int			number;
	int			place;
	Kind	   *kind;

	lock_pool();
	if (worker->head.generation == my_start.generation &&
		worker_state(worker) == WORKER_STARTING && worker->pid == 0)
		me = worker;
	else if ((number = find_deserted_kind(0)) >= 0 &&
			 (place = free_place()) >= 0)
	{
		kind = &pool->kinds[number];
		my_start.database = kind->database;
		my_start.login_user = kind->login_user;
		my_start.connection_flags = kind->connection_flags;
		me = make_place(place, number);
		counters_of(number)->started++;
	}
	if (me != NULL)
	{
		me->pid = MyProcPid;
		me->procno = my_procno();
		me->checked_login = pool->last_session;
		if (me->job >= 0)
			wake_later(pool->jobs[me->job].launcher);
	}
	unlock_pool();
	return me != NULL;
}

/* What our job is to do.  Errors: those of dynamic shared memory. */
static JobBody *
map_body(int job)
{
	JobBody    *body;

	mapping_body = true;
	body = body_of(&pool->jobs[job]);
	mapping_body = false;
	return body;
}

/*
 * Map what the job that this process was started for is to do, so that it can be
 * told of what goes wrong before it begins.
 */
static void
map_first_job(void)
{
	lock_pool();
	if (me->job >= 0)
		map_body(me->job)->worker_pid = MyProcPid;
	unlock_pool();
}

/*
 * Has a job of another kind been queued for long, for want of our slot?  Another may
 * have become free meanwhile.
 */
static bool
is_slot_wanted(void)
{
	bool		wanted = false;
	int			kind;

	lock_pool();
	kind = find_deserted_kind(DESERTED);
	if (kind >= 0 && kind != me->kind)
		wanted = dispatch(kind) == LIMIT_SLOTS;
	unlock_pool();
	return wanted;
}

/*
 * Do what was asked of this process while it was busy.  Returns whether a
 * worker that waits for another job should rather end: it is told to, or the
 * configuration now allows fewer of them.
 */
static bool
serve_interrupts(void)
{
	bool		reloaded = ConfigReloadPending;

	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	if (reloaded)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		session_stale = true;
	}
	return ProcDiePending ||
		(reloaded && max_idle_workers >= 0 && pool->nidle > max_idle_workers) ||
		are_too_many();
}

/*
 * Wait until there is a job to run.  Returns false where this process is to end:
 * its slot or its database is wanted, it has logged in too long ago, or it has
 * waited long enough.
 */
static bool
wait_for_work(void)
{
	Look		look = {.history = &worker_looks, .limit = look_time / 4};
	TimestampTz look_at = 0;

	for (;;)
	{
		bool		leave = serve_interrupts();
		TimestampTz now;

		switch (worker_state(me))
		{
			case WORKER_RUNNING:
				look_ended(&look);
				pg_read_barrier();
				if (!is_outdated(me->job))
					return true;
				give_back_job();
				return false;
			case WORKER_LEAVING:
				return false;
			default:
				break;
		}
		if (!leave && look_again(&look))
			continue;

		now = GetCurrentTimestamp();
		if (look_at == 0)
			look_at = TimestampTzPlusMilliseconds(now, DATABASE_LOOK);
		if (now >= look_at)
		{
			leave |= is_outdated(-1) || is_database_wanted() ||
				is_slot_wanted();
			look_at = TimestampTzPlusMilliseconds(now, DATABASE_LOOK);
		}
		if ((leave || now >= idle_deadline) && try_to_leave(outdated))
			return false;
		if (worker_state(me) != WORKER_IDLE)
			continue;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(now,
														 now >= idle_deadline ? look_at :
														 Min(idle_deadline, look_at)),
						 wait_event(&request_wait_event, "PgBackgroundIdle"));
		ResetLatch(MyLatch);
	}
}

/* The job that we were given begins. */
static void
begin_job(void)
{
	/*
	 * As any backend, we ignore a cancel that found us idle.  From the moment at
	 * which the job is seen to run, one is for that.
	 */
	QueryCancelPending = false;
	pg_memory_barrier();

	my_body = map_body(me->job);
	my_body->worker_pid = MyProcPid;
	set_shared_state(me->job, JOB_RUNNING);
	pg_memory_barrier();
	if (pool->jobs[me->job].tell)
		SetLatch(&GetPGProcByNumber(pool->jobs[me->job].launcher)->procLatch);

	/* It is empty: see close_output(), and nothing is said before the first. */
	output_mode = my_body->channel == 0 ? OUTPUT_KEPT : OUTPUT_GATHERED;
	error_said = false;
}

/* We wait for a job, for all to see. */
static void
report_idle(void)
{
	pgstat_report_activity(STATE_IDLE, NULL);
	set_ps_display("idle");
}

/* Connected, and ready for a job, be it the one that it was started for. */
static void
enter_service(void)
{
	lock_pool();
	me->connected = true;
	pg_atomic_write_u32(&me->state, WORKER_RUNNING);
	if (me->job < 0)
		find_work(true, idle_share(), idle_timeout);
	unlock_pool();
	if (worker_state(me) == WORKER_IDLE)
		report_idle();
}

/* ----------------------------------------------------------------
 *		The worker: running a job
 *
 * This follows exec_simple_query() and its helpers in the server's
 * tcop/postgres.c step by step, which cannot be called from here.
 * ----------------------------------------------------------------
 */

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
				 errmsg("COPY protocol not allowed in pg_background"),
				 errhint("A job has no client: have COPY use a file or a program of the server's.")));

	if (IsA(stmt, TransactionStmt) && OidIsValid(hold_user))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("transaction control is not allowed in a background job launched by a security-definer function"),
				 errhint("Before PostgreSQL 17, the function's owner has to have LOGIN for that.")));
}

/*
 * Statements with parameters that were run before, since one that comes again
 * need not be parsed and planned again: the last ones, in a ring.  The server's
 * plan cache sees to it that they are planned anew where that is necessary.
 *
 * They are those of one session, with its users and settings, see
 * forget_statements().
 */
static CachedPlanSource *statements[16];
static int	next_statement = 0;

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

	params->types = palloc(params->count * sizeof(Oid));
	params->list = makeParamList(params->count);
	for (int i = 0; i < params->count; i++)
	{
		ParamExternData *param = &params->list->params[i];

		memcpy(&param->ptype, data, sizeof(Oid));
		data += sizeof(Oid);
		param->value = datumRestore(&data, &param->isnull);
		param->pflags = PARAM_FLAG_CONST;
		params->types[i] = param->ptype;
	}
	return params;
}

/* A session, a user or a setting has changed: plan everything anew. */
static void
forget_statements(void)
{
	ResetPlanCache();
	for (int i = 0; i < lengthof(statements); i++)
	{
		if (statements[i] != NULL)
			DropCachedPlan(statements[i]);
		statements[i] = NULL;
	}
}

/* Was this statement run before, with parameters of these types? */
static CachedPlanSource *
find_statement(const char *sql, JobParams *params)
{
	for (int i = 0; i < lengthof(statements); i++)
	{
		CachedPlanSource *source = statements[i];

		if (source != NULL && source->num_params == params->count &&
			memcmp(source->param_types, params->types,
				   params->count * sizeof(Oid)) == 0 &&
			strcmp(source->query_string, sql) == 0)
			return source;
	}
	return NULL;
}

/* Keep a statement that has been analyzed, for the next time that it comes. */
static CachedPlanSource *
keep_statement(CachedPlanSource *source, List *queries, JobParams *params)
{
	CompleteCachedPlan(source, queries, NULL, params->types, params->count,
					   NULL, NULL, CURSOR_OPT_PARALLEL_OK, false);
	SaveCachedPlan(source);
	if (statements[next_statement] != NULL)
		DropCachedPlan(statements[next_statement]);
	statements[next_statement] = source;
	next_statement = (next_statement + 1) % lengthof(statements);
	return source;
}

/*
 * Say that a command has completed.  Where it was the last one, this is done
 * behind the commit, so that nothing is waited for.
 */
static void
send_command(QueryCompletion *qc, bool is_last)
{
	CommandFrame *command;
	char	   *tag;
	const char *name = GetCommandTagName(qc->commandTag);

	/* Where nobody reads them one by one, the last one is enough. */
	if (output_mode == OUTPUT_KEPT)
		output.len = 0;
	command = (CommandFrame *) append_frame(FRAME_COMMAND,
											sizeof(CommandFrame));
	memset(command, 0, sizeof(CommandFrame));
	tag = command->tag;
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
 * Plan a statement; *cached is set where the plan is a cached one, which is then
 * the portal's to release.
 */
static List *
plan_statement(RawStmt *parsetree, const char *sql, JobParams *params,
			   CachedPlan **cached)
{
	CachedPlanSource *source = NULL;
	List	   *queries;

	*cached = NULL;
	if (params->count > 0)
		source = find_statement(sql, params);
	if (source == NULL)
	{
		/* It copies the tree, which analysis may change. */
		if (params->count > 0)
			source = CreateCachedPlan(parsetree, sql,
									  CreateCommandTag(parsetree->stmt));
		queries = analyze_and_rewrite(parsetree, sql, setup_param_hook, params);
		check_params_used(params);
		if (source == NULL)
			return pg_plan_queries(queries, sql, CURSOR_OPT_PARALLEL_OK,
								   params->list);
		keep_statement(source, queries, params);
	}
	*cached = GetCachedPlan(source, params->list, NULL, NULL);
	return (*cached)->stmt_list;
}

/* A statement was run; the last one ends the transaction. */
static void
finish_statement(RawStmt *parsetree, bool is_last, bool implicit_block)
{
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
	CachedPlan *cached;
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

	/* The transaction's context goes where the command is COMMIT. */
	context = AllocSetContextCreate(MessageContext, "pg_background statement",
									ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	portal = CreatePortal("", true, true);
	portal->visible = false;
	if (analyze_requires_snapshot(parsetree))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		snapshot_set = true;
	}
	plans = plan_statement(parsetree, sql, params, &cached);
	PortalDefineQuery(portal, NULL, sql, tag, plans, cached);
	if (snapshot_set)
		PopActiveSnapshot();
	CHECK_FOR_INTERRUPTS();

	PortalStart(portal, params->list, 0, InvalidSnapshot);
	receiver = is_last && !output_discard ? &row_receiver : None_Receiver;
	MemoryContextSwitchTo(oldcontext);

	run_portal(portal, receiver, &qc);
	PortalDrop(portal, false);

	finish_statement(parsetree, is_last, implicit_block);
	send_command(&qc, is_last);
	MemoryContextDelete(context);
}

/*
 * A job has begun a transaction of its own and not ended it.
 *
 * Errors: 25001 where it has changed something.
 */
static void
end_open_transaction(void)
{
	if (!IsTransactionOrTransactionBlock())
		return;
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

/* Log how long a job took, where that is wanted; logged says whether it is itself. */
static void
log_job_duration(const char *sql, bool logged)
{
	char		duration[32];

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
	bool		shows_stats = log_statement_stats;
	bool		logged = false;
	bool		implicit_block;
	CachedPlanSource *cached = NULL;
	MemoryContext oldcontext;

	if (shows_stats)
		ResetUsage();
	start_xact_command();
	complete_job_line(session_user_id);

	oldcontext = MemoryContextSwitchTo(MessageContext);
	if (params->count > 0)
		cached = find_statement(sql, params);
	parsetrees = cached != NULL ? list_make1(cached->raw_parse_tree) :
		pg_parse_query(sql);
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
				 errmsg("cannot run multiple commands with parameters"),
				 errhint("Launch a job for each, or put them into a function or procedure.")));
	if (parsetrees == NIL)
		check_params_used(params);

	/* An implicit block also keeps procedures from ending the transaction. */
	implicit_block = list_length(parsetrees) > 1 || OidIsValid(hold_user);

	foreach(lc, parsetrees)
		run_statement(lfirst_node(RawStmt, lc), sql, params,
					  lnext(parsetrees, lc) == NULL, implicit_block);
	finish_xact_command();

	end_open_transaction();

	/* A cancel that comes now is too late. */
	HOLD_CANCEL_INTERRUPTS();
	set_shared_state(me->job, JOB_ENDED);

	log_job_duration(sql, logged);
	if (shows_stats)
		ShowUsage("QUERY STATISTICS");
}

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
 * Be what a job's session is, and show the server what is run.
 *
 * Errors: 57014 where it was canceled before; those of take_session().
 */
static void
set_up_job(Request *request, const char *sql)
{
	take_session(request);
	if (request->shows_label)
		show_label();
	hold_user = request->hold_user;

	debug_query_string = sql;
	SetCurrentStatementStartTimestamp();
	if (OidIsValid(hold_user))
		hide_held_job();
	else
		pgstat_report_activity(STATE_RUNNING, sql);
	if (pg_atomic_read_u32(&my_body->canceled) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling statement due to user request")));
	if (worker_timeout > 0)
		enable_timeout_after(job_timeout_id, worker_timeout);
}

/* The last words of a job, which took so many microseconds */
static void
say_done(bool canceled, int64 execution)
{
	DoneFrame  *done;

	if (job_warnings.count > 0)
		memcpy(append_frame(FRAME_WARNINGS, sizeof(WarningsFrame)),
			   &job_warnings, sizeof(WarningsFrame));
	done = (DoneFrame *) append_frame(FRAME_DONE, sizeof(DoneFrame));
	memset(done, 0, sizeof(DoneFrame));
	done->canceled = canceled;
	done->execution = execution;

	/* What is little needs no queue. */
	if (output_mode == OUTPUT_GATHERED && output.len <= GATHER_SIZE &&
		publish_output())
		return;
	(void) send_output(true, true);
	if (output_mode == OUTPUT_KEPT && !publish_output())
		my_body->lost_error = ERRCODE_OUT_OF_MEMORY;
}

/*
 * Until the next job begins, nobody listens.  Nothing of this one is left to be
 * taken for the last words of that.
 */
static void
close_output(void)
{
	output_discard = true;
	output_queue = NULL;
	output_mode = OUTPUT_SENT;
	output_sending = 0;
	resetStringInfo(&output);
}

/*
 * Run the job at hand, and say everything that there is to say of it.
 *
 * A query cancel takes effect only while the job runs.  Where it has taken
 * effect, another may be on its way, which must not meet the next job.
 */
static void
run_job(void)
{
	Request    *request = &my_body->request;
	char	   *sql = my_body->area;
	char	   *params = sql + MAXALIGN(request->sql_size);
	TimestampTz start = GetCurrentTimestamp();
	volatile bool failed = false;
	volatile bool canceled = false;
	bool		stays;
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
		set_up_job(request, sql);
		MemoryContextSwitchTo(MessageContext);
		run_string(sql, restore_params(request, params));
		disable_timeout(job_timeout_id, false);
	}
	PG_CATCH();
	{
		failed = true;
		canceled = recover_from_error();
		/* Throwing an error has ended that. */
		HOLD_CANCEL_INTERRUPTS();
		set_shared_state(me->job, JOB_ENDED);
	}
	PG_END_TRY();

	QueryCancelPending = false;
	debug_query_string = NULL;
	hold_user = InvalidOid;

	pgstat_report_stat(true);
	report_idle();

	stays = !canceled && can_be_reset();
	say_done(canceled, GetCurrentTimestamp() - start);
	error_context_stack = callback.previous;
	close_output();
	finish_job(failed, canceled, GetCurrentTimestamp() - start, stays);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(MessageContext);
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
 *		The worker: whose job it is, in the server log
 *
 * log_line_prefix has no user and no database to show of a background process,
 * so every line of a job has them in its context.  The launcher does not show
 * them, see drop_job_line().
 * ----------------------------------------------------------------
 */

static char job_line[sizeof(JOB_LINE_START) + 2 * NAMEDATALEN + LABEL_SIZE + 64];
static char job_label[LABEL_SIZE + 1];
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

	read_job_info(my_body, &info);
	strlcpy(job_label, info.label, LABEL_SIZE + 1);
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
 *		The launcher: jobs in the pool
 * ----------------------------------------------------------------
 */

/* Copy what is public of a job. */
static void
read_job_info(JobBody *body, JobInfo *info)
{
	SpinLockAcquire(&body->mutex);
	*info = body->info;
	SpinLockRelease(&body->mutex);
}

/*
 * This is the process that a job has now, 0 where that is not known.  Lists may have
 * shown another until then, and what they show is a handle, too.
 */
static void
note_worker(Job *job, pid_t pid)
{
	if (pid == 0 || pid == job->pid)
		return;
	job->previous_pid = job->pid;
	job->pid = pid;
}

/* Take over what a job has said of its progress, and which process has it. */
static void
keep_progress(Job *job)
{
	JobInfo		info;

	if (job->body == NULL)
		return;
	read_job_info(job->body, &info);
	job->progress_pct = info.progress_pct;
	strlcpy(job->progress_msg, info.progress_msg, PROGRESS_SIZE);
	note_worker(job, job->body->worker_pid);
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
	if (!job->forgotten || !job_has_ended(job) || job->pins > 0)
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

/* Make a channel, or take one that was used before. */
static Channel *
get_channel(int32 queue_size)
{
	dlist_iter	iter;
	Channel    *channel;
	dsm_segment *segment;

	dlist_foreach(iter, &free_channels)
	{
		channel = dlist_container(Channel, node, iter.cur);
		if (channel->queue_size == queue_size)
		{
			dlist_delete(&channel->node);
			nfree_channels--;
			return channel;
		}
	}

	channel = MemoryContextAllocZero(launcher_context, sizeof(Channel));
	segment = dsm_create(queue_size, DSM_CREATE_NULL_IF_MAXSEGMENTS);
	if (segment == NULL)
	{
		pfree(channel);
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("too many dynamic shared memory segments"),
				 errhint("Read or detach jobs, or increase \"%s\".",
						 "max_connections")));
	}
	dsm_pin_mapping(segment);
	channel->segment = segment;
	channel->queue_size = queue_size;
	return channel;
}

static void
drop_channel(Channel *channel)
{
	if (channel->results != NULL)
		shm_mq_detach(channel->results);
	dsm_detach(channel->segment);
	pfree(channel);
}

/* Make an empty queue in a channel, where nobody has one any more. */
static void
open_channel(Channel *channel)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(launcher_context);
	shm_mq	   *queue;

	if (channel->results != NULL)
		shm_mq_detach(channel->results);
	channel->results = NULL;
	queue = shm_mq_create(dsm_segment_address(channel->segment),
						  channel->queue_size);
	shm_mq_set_receiver(queue, MyProc);
	channel->results = shm_mq_attach(queue, channel->segment, NULL);
	MemoryContextSwitchTo(oldcontext);
}

/* A job needs its channel no more; some are kept for jobs to come. */
static void
release_channel(Job *job)
{
	Channel    *channel = job->channel;

	job->channel = NULL;
	if (channel == NULL)
		return;
	if (nfree_channels >= MAX_FREE_CHANNELS)
	{
		drop_channel(channel);
		return;
	}
	dlist_push_head(&free_channels, &channel->node);
	nfree_channels++;
}

/* The session holds a job no longer; the pool may. */
static void
release_shared_job(Job *job)
{
	SharedJob  *shared;
	dsa_pointer body;

	if (job->shared < 0)
		return;
	shared = &pool->jobs[job->shared];
	lock_pool();
	shared->said_done = job_has_ended(job) && !job->lost;
	if (shared_state(job->shared) == JOB_PREPARED)
	{
		Kind	   *kind = &pool->kinds[shared->kind];

		kind->reserved--;
		if (kind->reserver == my_procno())
			kind->reserver = -1;
	}
	last_worker = shared->worker;
	shared->launcher_holds = false;
	body = free_shared_job(job->shared);
	unlock_pool();
	job->shared = -1;
	job->body = NULL;
	free_body(body);
}

/*
 * The one place where a job's phase changes, and what goes with it.  From
 * PHASE_LAUNCHED back to PHASE_NEW it goes where its launch fails at its end.
 */
static void
set_phase(Job *job, JobPhase phase)
{
	if (job->phase == PHASE_LAUNCHED)
		dlist_delete(&job->running_node);
	if (phase == PHASE_LAUNCHED)
	{
		dlist_push_tail(&running_jobs, &job->running_node);
		stats.launched++;
	}
	else if (phase == PHASE_NEW)
		stats.launched--;
	job->phase = phase;
}

/* All is known of a job that will be. */
static void
end_job(Job *job)
{
	/* Where the message is sent, that must not be where we are interrupted. */
	HOLD_INTERRUPTS();
	elog(DEBUG2, "pg_background: cleaning up worker pid=%d", (int) job->pid);
	RESUME_INTERRUPTS();

	keep_progress(job);
	set_phase(job, PHASE_ENDED);
	release_shared_job(job);
	release_channel(job);
	job->message_pos = job->message_size = 0;
	free_forgotten_job(job);
}

/* Has all that will ever be known of a job been received? */
static bool
job_has_ended(Job *job)
{
	return job->phase == PHASE_ENDED;
}

/*
 * The settings of the session, for its jobs to share.
 *
 * Errors: 53200.
 */
static dsa_pointer
share_settings(void)
{
	SharedSettings *shared;
	dsa_pointer old = shared_settings;
	dsa_pointer new;

	if (DsaPointerIsValid(old) && shared_generation == settings_generation)
		return old;

	new = dsa_allocate(pool_area,
					   offsetof(SharedSettings, data) + my_settings.len);
	shared = dsa_get_address(pool_area, new);
	pg_atomic_init_u32(&shared->references, 1);
	shared->size = my_settings.len;
	memcpy(shared->data, my_settings.data, my_settings.len);
	lock_pool();
	shared->id = ++pool->last_settings;
	unlock_pool();
	shared_settings = new;
	shared_generation = settings_generation;
	drop_settings(old);
	return new;
}

/*
 * PIDs that are handles of other jobs of the session, in themselves (v1): a job
 * that has a handle must have another, since that may become such a one.
 */
static int
excluded_pids(Job *job, int32 *pids)
{
	dlist_iter	iter;
	int			count = 0;

	if (!job->has_handle)
		return 0;
	dlist_foreach(iter, &jobs)
	{
		Job		   *other = dlist_container(Job, node, iter.cur);

		if (other == job || !other->is_v1 || other->delivered)
			continue;
		if (pids != NULL)
			pids[count] = other->number;
		count++;
	}
	return count;
}

/* May a job's worker have had another job before, or have one afterwards? */
static bool
shares_workers(Job *job)
{
	return share_workers && !OidIsValid(job->request.hold_user);
}

/* Fill in the body of a job.  Nothing here fails. */
static void
fill_body(Job *job, JobBody *body, const char *preview)
{
	char	   *pos = body->area;

	SpinLockInit(&body->mutex);
	body->info.launcher_pid = MyProcPid;
	body->info.launcher_user = GetSessionUserId();
	body->info.user_id = job->user_id;
	body->info.owner = OidIsValid(job->request.hold_user) ?
		job->request.hold_user : job->login_user;
	body->info.launched_at = job->launched_at;
	strlcpy(body->info.label, job->label != NULL ? job->label : "",
			LABEL_SIZE + 1);
	strlcpy(body->info.sql_preview, preview, PREVIEW_SIZE + 1);
	body->info.progress_pct = -1;
	pg_atomic_init_u32(&body->canceled, 0);
	pg_atomic_init_u32(&body->discard, 0);
	body->request = job->request;
	memcpy(pos, job->sql, job->request.sql_size);
	pos += MAXALIGN(job->request.sql_size);
	if (job->request.params_size > 0)
		memcpy(pos, job->params.data, job->request.params_size);
	pos += MAXALIGN(job->request.params_size);
	(void) excluded_pids(job, (int32 *) pos);
}

/*
 * Enter a job into the pool's list, for nobody to run yet.
 *
 * Errors: 53000 where there are too many, 53200.
 */
static void
enter_shared_job(Job *job, dsa_pointer body, Size size)
{
	SharedJob  *shared = NULL;
	int			kind;
	int			number;

	lock_pool();
	if (my_session == 0)
		my_session = my_login = ++pool->last_session;
	if (logins_changed)
	{
		my_login = ++pool->last_session;
		logins_changed = false;
	}
	number = pool->free_job;
	kind = number < 0 ? -1 :
		get_kind(MyDatabaseId, job->login_user, job->connection_flags,
				 shares_workers(job) ? 0 :
				 OidIsValid(job->request.hold_user) ? ++pool->last_session :
				 my_session);
	if (kind >= 0)
	{
		pool->kinds[kind].role_limit = max_role_workers;
		if (OidIsValid(job->request.hold_user))
			pool->kinds[kind].closed = true;
		shared = &pool->jobs[number];
		pool->free_job = shared->next;
		shared->kind = kind;
		shared->worker = -1;
		shared->launcher_holds = true;
		shared->pool_holds = false;
		shared->awaited = shared->tell = false;
		shared->excludes = job->request.nexcluded > 0;
		shared->max_workers = job->on_commit ? 0 : max_workers;
		shared->preferred = last_worker;
		shared->session = my_session;
		shared->login = my_login;
		shared->launcher_pid = MyProcPid;
		shared->launcher = my_procno();
		shared->launcher_worker = me != NULL ? worker_number(me) : -1;
		pg_atomic_write_u32(&shared->launcher_waits, 0);
		shared->ticket = ++pool->last_ticket;
		shared->queued_at = GetCurrentTimestamp();
		shared->charged = 0;
		shared->counted = shared->said_done = shared->forgotten = false;
		shared->body = body;
		set_shared_state(number, JOB_PREPARED);
		/* A kind that nobody else needs is needed now. */
		pool->kinds[kind].reserved++;
		job->shared = number;
		job->size = size;
	}
	unlock_pool();
	if (kind >= 0)
		return;

	free_body(body);
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("too many background jobs are queued"),
			 errhint("Wait for some to end.")));
}

/*
 * Make of a job what others need to know to run it.
 *
 * Errors: 53000, 53200, those of dsm_create().
 */
static void
publish_job(Job *job)
{
	char	   *preview = clip_text(job->sql, PREVIEW_SIZE);
	dsa_pointer settings_pointer = share_settings();
	SharedSettings *shared = dsa_get_address(pool_area, settings_pointer);
	Size		area_size;
	Size		size;
	dsa_pointer pointer;
	JobBody    *body;

	job->request.max_idle_workers = max_idle_workers;
	job->request.idle_timeout = idle_timeout;
	job->request.new_login = alters_logins;
	job->request.nexcluded = excluded_pids(job, NULL);
	if (!job->request.discard)
	{
		job->channel = get_channel(job->queue_size);
		open_channel(job->channel);
	}

	area_size = MAXALIGN(job->request.sql_size) +
		MAXALIGN(job->request.params_size) +
		job->request.nexcluded * sizeof(int32);
	area_size = Max(area_size, job->request.discard ?
					MIN_UNREAD_AREA : MIN_BODY_AREA);
	size = offsetof(JobBody, area) + area_size;
	pointer = dsa_allocate_extended(pool_area, size,
									DSA_ALLOC_HUGE | DSA_ALLOC_NO_OOM);
	if (!DsaPointerIsValid(pointer))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of shared memory")));
	body = dsa_get_address(pool_area, pointer);
	memset(body, 0, offsetof(JobBody, area));
	body->area_size = area_size;
	body->output = InvalidDsaPointer;
	body->settings = settings_pointer;
	fill_body(job, body, preview);
	if (job->channel != NULL)
		body->channel = dsm_segment_handle(job->channel->segment);

	/* Whose first job this is, pays for the settings. */
	if (pg_atomic_fetch_add_u32(&shared->references, 1) == 1)
		size += shared->size;
	enter_shared_job(job, pointer, size);
	job->body = body;
	pfree(preview);
}

/* The worker that has a job, NULL where none has.  Called with the lock held. */
static PoolWorker *
worker_of(Job *job)
{
	int			number = pool->jobs[job->shared].worker;

	return number >= 0 && pool->workers[number].job == job->shared ?
		&pool->workers[number] : NULL;
}

/*
 * Send a signal to a worker and to the programs that it has started, as
 * pg_cancel_backend() and pg_terminate_backend() do; but only while it runs this
 * very job.  It will not have another.
 */
static void
signal_job(Job *job, int signal)
{
	PoolWorker *worker;

	lock_pool();
	worker = worker_of(job);
	if (worker != NULL && worker->pid != 0)
	{
		worker->signaled = true;
#ifdef HAVE_SETSID
		/* A process that has just started does not lead a group yet. */
		if (kill(-worker->pid, signal) != 0)
#endif
			(void) kill(worker->pid, signal);
	}
	unlock_pool();
}

/* A worker may sleep for want of room in a queue that nobody reads any more. */
static void
wake_worker_of(Job *job)
{
	PoolWorker *worker;

	lock_pool();
	worker = worker_of(job);
	if (worker != NULL)
		wake_later(worker->procno);
	unlock_pool();
}

/*
 * Does a job wait for a process that cannot run it, since it has loaded another
 * build of this library?  Then there is an end to that.
 */
static void
check_replaced(Job *job)
{
	int			number = pool->jobs[job->shared].worker;

	if (number < 0 || pool->workers[number].head.error == 0)
		return;
	lock_pool();
	if (worker_of(job) != NULL)
		abandon_worker(worker_of(job));
	unlock_pool();
}

/* Take a job that has not begun out of its queue.  Returns false where it has. */
static bool
withdraw_job(Job *job)
{
	bool		withdrawn = false;

	lock_pool();
	if (shared_state(job->shared) == JOB_QUEUED)
	{
		dequeue_job(job->shared);
		pool->jobs[job->shared].pool_holds = false;
		counters_of(pool->jobs[job->shared].kind)->canceled++;
		set_shared_state(job->shared, JOB_LOST);
		withdrawn = true;
	}
	unlock_pool();
	return withdrawn;
}

/*
 * Ask for a running job to be canceled, as pg_cancel_backend() would.  The
 * worker is asked through the job, too: it may not have begun.
 */
static void
cancel_job(Job *job)
{
	elog(DEBUG2, "pg_background: cancel requested for pid=%d cookie=" INT64_FORMAT,
		 (int) job->pid, job->cookie);

	job->cancel_requested = true;
	if (withdraw_job(job))
	{
		job->error = &unread_error;
		job->canceled = true;
		count_job(job);
		end_job(job);
		return;
	}
	pg_atomic_write_u32(&job->body->canceled, 1);
	signal_job(job, SIGINT);
}

/*
 * The session ends, or is another's from now on: the jobs that have begun or
 * were submitted go on, and workers that it shares with nobody leave.
 */
static void
leave_session(void)
{
	dlist_iter	iter;

	if (pool == NULL || my_session == 0)
		return;
	LWLockReleaseAll();
	lock_pool();
	for (int i = 0; i < pool->nkinds; i++)
	{
		Kind	   *kind = &pool->kinds[i];

		if (kind->used && kind->reserver == my_procno())
			kind->reserver = -1;
		if (!kind->used || kind->session != my_session)
			continue;
		kind->closed = true;
		while (kind->first_idle >= 0)
			make_leave(&pool->workers[kind->first_idle]);
		free_kind_if_unneeded(i);
	}
	unlock_pool();

	dlist_foreach(iter, &running_jobs)
	{
		Job		   *job = dlist_container(Job, running_node, iter.cur);

		if (job->shared >= 0 && pool->jobs[job->shared].awaited)
			(void) withdraw_job(job);
	}
	my_session = 0;
}

/* The session ends: it needs none of its jobs any more. */
static void
leave_as_launcher(int code, Datum arg)
{
	dlist_iter	iter;

	if (pool == NULL)
		return;
	leave_session();
	dlist_foreach(iter, &running_jobs)
		release_shared_job(dlist_container(Job, running_node, iter.cur));
	dlist_foreach(iter, &pending_jobs)
		release_shared_job(dlist_container(Job, node, iter.cur));
	drop_settings(shared_settings);
	shared_settings = InvalidDsaPointer;
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
				 errmsg("cannot launch a background job within security-restricted operation"),
				 errhint("Index expressions, materialized views and triggers of a subscription run so, the last not where the subscription has run_as_owner.")));

	/*
	 * Inside a SECURITY DEFINER function or the like, a worker that is
	 * connected as the owner itself cannot become the caller.
	 */
	*connection_flags = my_start.connection_flags;
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
	PoolWorker *worker = me;

	lock_pool();
	while (worker != NULL && worker->job >= 0)
	{
		SharedJob  *job = &pool->jobs[worker->job];

		if (pg_atomic_read_u32(&job->launcher_waits) == 0)
			break;
		pids = lappend_int(pids, (int) job->launcher_pid);
		if (job->launcher_worker < 0)
			break;
		worker = &pool->workers[job->launcher_worker];
		if (worker->pid != job->launcher_pid)
			break;
	}
	unlock_pool();
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

/*
 * Collect the processes that a job's end or begin depends on: its worker, or all
 * that could take it.  NIL where there is one that needs nothing of us.
 */
static List *
awaited_processes(Job *job)
{
	SharedJob  *shared = &pool->jobs[job->shared];
	List	   *pids = NIL;
	bool		of_session;

	lock_pool();
	if (shared_state(job->shared) != JOB_QUEUED)
	{
		if (shared->worker >= 0 && shared_state(job->shared) < JOB_DONE)
			pids = list_make1_int((int) pool->workers[shared->worker].pid);
		unlock_pool();
		return pids;
	}

	/* One at its session's own limit waits for its like. */
	of_session = !may_begin(shared);
	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		PoolWorker *worker = &pool->workers[i];

		if (worker_state(worker) == WORKER_FREE ||
			worker_state(worker) == WORKER_LEAVING ||
			worker->kind != shared->kind)
			continue;
		if (of_session && (worker->job < 0 ||
						   pool->jobs[worker->job].session != shared->session))
			continue;
		if (worker->job < 0 || worker->pid == 0)
		{
			pids = NIL;
			break;
		}
		pids = lappend_int(pids, (int) worker->pid);
	}
	unlock_pool();
	return pids;
}

static bool
depends_on_us(Job *job)
{
	List	   *pids = awaited_processes(job);
	ListCell   *lc;

	foreach(lc, pids)
	{
		if (!waits_for_us(lfirst_int(lc)))
			return false;
	}
	return pids != NIL;
}

/* A wait may last for days, and looks once a second: nothing is left of a look. */
static bool
is_deadlocked(Job *job)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_background deadlock check",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	bool		result = depends_on_us(job);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	return result;
}

/*
 * Sleep until the latch is set or one of two moments has come, 0 meaning
 * never.
 */
static void
sleep_until(TimestampTz deadline, TimestampTz check_at, uint32 event)
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
	(void) WaitLatch(MyLatch, events, timeout, event);
	ResetLatch(MyLatch);
}

/* Does a job that has not ended wait for a worker? */
static bool
is_queued(Job *job)
{
	return shared_state(job->shared) == JOB_QUEUED;
}

/*
 * Do all of these jobs that run wait for what this session holds?  Then cancel
 * them, and return the first one.  Those that have not begun may run then, where
 * there is one that has.
 */
static Job *
find_deadlock(Job **set, int njobs)
{
	Job		   *first = NULL;
	bool		begun = false;

	for (int i = 0; i < njobs; i++)
	{
		if (job_has_ended(set[i]))
			continue;
		/* One that was canceled is about to end. */
		if (set[i]->cancel_requested || !is_deadlocked(set[i]))
			return NULL;
		if (first == NULL || (!begun && !is_queued(set[i])))
			first = set[i];
		begun |= !is_queued(set[i]);
	}

	for (int i = 0; first != NULL && i < njobs; i++)
	{
		if (job_has_ended(set[i]) || (begun && is_queued(set[i])))
			continue;
		set[i]->deadlocked = true;
		cancel_job(set[i]);
	}
	return first;
}

/* Errors: 40P01. */
static void
raise_deadlock(Job *job)
{
	bool		begun = job->pid != 0 && job->pid < FIRST_JOB_NUMBER;

	ereport(ERROR,
			(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
			 errmsg("deadlock detected"),
			 !begun ?
			 errdetail("All workers that could take the background job wait for locks that this session holds, and this session waits for the job.") :
			 errdetail("The background job with PID %d waits for a lock that this session holds, and this session waits for the job.",
					   (int) job->pid),
			 errhint("The job has been canceled. What waits for the snapshots of others, as CREATE INDEX CONCURRENTLY does, can be run by CALL pg_background_maintain().")));
}

/*
 * Called with the lock held: a job that has a worker, or will have none.
 *
 * A worker that may have logged in before this session, or before what the session
 * has changed of that or seen to change, may give the job to another.
 */
static Place
place_of_worker(Job *job)
{
	SharedJob  *shared = &pool->jobs[job->shared];
	PoolWorker *worker;

	note_worker(job, job->body->worker_pid);
	if (shared_state(job->shared) != JOB_STARTING || shared->worker < 0)
		return PLACE_WORKER;
	worker = &pool->workers[shared->worker];
	note_worker(job, worker->pid);
	if (worker->pid == 0 || worker->checked_login < shared->login ||
		alters_logins)
		return PLACE_PROCESS;
	return PLACE_WORKER;
}

/*
 * When to ask for a slot again for a job: soon, where a process of the pool is about
 * to free one; else once a second, since nobody tells us of those that others free,
 * and sooner at first where there is no worker of this kind.  0 where the session
 * whose turn is next does so.  *retry is after how many milliseconds.
 */
static TimestampTz
next_slot_retry(Kind *kind, int *retry)
{
	TimestampTz now = GetCurrentTimestamp();
	SharedJob  *first = &pool->jobs[kind->first_job];

	if (pool->nleaving > 0 ||
		now - pool->last_exit < REAP_TIME * INT64CONST(1000))
		*retry = SLOT_RETRY;
	else if (kind->nworkers == 0)
		*retry = Min(*retry * 2, 1000);
	else if (!first->awaited || first->launcher == my_procno())
		*retry = 1000;
	else
		return 0;
	return TimestampTzPlusMilliseconds(now, *retry);
}

/*
 * Where does a job stand now?  One that still waits is given a worker if there is
 * one by now; *limit says what is in the way, *retry_at when to ask for a slot
 * again that a process of the pool frees, or some other, 0 where somebody will
 * tell us.
 */
static Place
look_for_worker(Job *job, ProcessLimit *limit, TimestampTz *retry_at, int *retry)
{
	SharedJob  *shared = &pool->jobs[job->shared];
	Place		place = PLACE_WORKER;

	*retry_at = 0;
	lock_pool();
	if (shared_state(job->shared) == JOB_QUEUED)
	{
		*limit = dispatch(shared->kind);
		if (shared_state(job->shared) == JOB_QUEUED &&
			is_any_ending_job(shared))
			place = PLACE_PROCESS;
		else if (shared_state(job->shared) == JOB_QUEUED)
		{
			place = PLACE_LINE;
			if (*limit == LIMIT_SLOTS)
				*retry_at = next_slot_retry(&pool->kinds[shared->kind], retry);
		}
	}
	if (place == PLACE_WORKER)
		place = place_of_worker(job);
	if (place == PLACE_WORKER)
		shared->awaited = false;
	unlock_pool();
	return place;
}

/*
 * Do what can be done for those of some jobs that still wait in line, since nobody
 * else may.  Returns when to do so again, 0 where there is no need.
 */
static TimestampTz
help_queued_jobs(Job **set, int njobs, int *retry)
{
	TimestampTz first = 0;

	for (int i = 0; i < njobs; i++)
	{
		ProcessLimit limit;
		TimestampTz retry_at;

		if (job_has_ended(set[i]) || !is_queued(set[i]))
			continue;
		(void) look_for_worker(set[i], &limit, &retry_at, retry);
		if (retry_at != 0 && (first == 0 || retry_at < first))
			first = retry_at;
	}
	return first;
}

/* Is the launcher asleep until just this job has ended? */
static void
set_launcher_waits(Job **set, int njobs, bool waits)
{
	if (njobs == 1 && !job_has_ended(set[0]))
		pg_atomic_write_u32(&pool->jobs[set[0]->shared].launcher_waits, waits);
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
	int			retry = SLOT_RETRY;
	Look		look = {.history = &launcher_looks, .limit = look_time};

	for (;;)
	{
		TimestampTz now;
		TimestampTz retry_at;
		bool		progress;

		CHECK_FOR_INTERRUPTS();

		for (int i = 0; i < njobs; i++)
		{
			if (job_has_ended(set[i]) || pump_job(set[i]))
			{
				look_ended(&look);
				return job_has_ended(set[i]) || deadline == 0 ||
					GetCurrentTimestamp() < deadline;
			}
		}
		if (look_again(&look))
			continue;
		progress = pump_jobs();

		now = GetCurrentTimestamp();
		if (deadline != 0 && now >= deadline)
			return false;
		if (deadline == 0 && check_at != 0 && now >= check_at)
		{
			Job		   *job = find_deadlock(set, njobs);

			if (job != NULL && !deadlock_is_theirs)
				raise_deadlock(job);
			check_at = 0;
		}
		if (deadline == 0 && check_at == 0)
			check_at = TimestampTzPlusMilliseconds(now, DeadlockTimeout);
		if (progress)
			continue;

		retry_at = help_queued_jobs(set, njobs, &retry);
		set_launcher_waits(set, njobs, deadline == 0);
		sleep_until(deadline, retry_at == 0 ? check_at :
					check_at == 0 ? retry_at : Min(check_at, retry_at),
					wait_event(&job_wait_event, "PgBackgroundJob"));
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
	while (!job_has_ended(job) && wait_for_progress(&job, 1, deadline, false))
		;
	return job_has_ended(job);
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

/* Have what says who may log in, and as what, tell of its changes. */
static void
watch_logins(SyscacheCallbackFunction callback)
{
	static const CatalogCache caches[] = {
		AUTHMEMMEMROLE, AUTHMEMROLEMEM, AUTHOID, DATABASEOID
	};

	for (int i = 0; i < lengthof(caches); i++)
		CacheRegisterSyscacheCallback(caches[i], callback, (Datum) 0);
}

/* A callback of the server's caches */
static void
note_login_change(Datum arg, CatalogCache cache, uint32 hash)
{
	logins_changed = true;
}

static void
init_launcher(void)
{
	HASHCTL		ctl;
	MemoryContext oldcontext;

	attach_pool();
	if (launcher_context != NULL)
		return;

	before_shmem_exit(leave_as_launcher, (Datum) 0);
	watch_logins(note_login_change);
	launcher_context = AllocSetContextCreate(TopMemoryContext, "pg_background",
											 ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(JobEntry);
	ctl.hcxt = launcher_context;
	oldcontext = MemoryContextSwitchTo(launcher_context);
	initStringInfo(&my_settings);
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

/*
 * Check what a job is to be made of, and say how large its queue is, in bytes.
 *
 * Errors: 22004 for no SQL string, 22023 for a queue size or a label out of bounds
 * (22001 for the label from 2.0 on), 54000.
 */
static int32
check_spec(JobSpec *spec)
{
	int32		queue_size = spec->queue_size;

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
	if (spec->label != NULL && VARSIZE_ANY_EXHDR(spec->label) > LABEL_SIZE)
		ereport(ERROR,
				(errcode(spec->since_2 ? ERRCODE_STRING_DATA_RIGHT_TRUNCATION :
						 ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("label must not exceed %d bytes", LABEL_SIZE)));
	if (VARSIZE_ANY_EXHDR(spec->sql) + (spec->nparams > 0 ? spec->params->len : 0) >
		MAX_JOB_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("SQL string and parameters must not exceed %d bytes together",
						(int) MAX_JOB_SIZE)));
	return queue_size;
}

/*
 * Make a job of what a caller says, and of who and what the session is now.
 * The pool does not know it yet, and it has no handle.
 *
 * Errors: those of check_spec(), 25000 during a parallel operation, 42501 in a
 * security-restricted operation.
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
	int32		queue_size;

	check_not_parallel();
	queue_size = check_spec(spec);
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
	job->shared = -1;
	job->progress_pct = -1;
	job->user_id = GetUserId();
	job->login_user = login_user;
	job->connection_flags = connection_flags;
	job->queue_size = queue_size;
	job->launched_at = GetCurrentTimestamp();
	job->sql = text_to_cstring(spec->sql);
	if (spec->label != NULL)
		job->label = text_to_cstring(spec->label);
	job->is_v1 = spec->is_v1;
	job->submitted = spec->submitted;
	job->on_commit = spec->on_commit;
	job->request = request;
	job->request.shows_label = spec->since_2 && spec->label != NULL;
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

		if (stale == job || !stale->is_v1 || stale->number != job->number)
			continue;
		if (stale->user_id != job->user_id)
			ereport(FATAL,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("background worker with PID %d already exists",
							(int) job->pid)));
		forget_job(stale);
	}
}

/* Does a submitted job fit into what may be queued?  Called with the lock held. */
static bool
charge_job(Job *job)
{
	if (pool->charged + job->size > (Size) queue_memory * 1024 ||
		pool->ncharged >= MAX_QUEUED_JOBS)
		return false;
	pool->charged += job->size;
	pool->ncharged++;
	pool->jobs[job->shared].charged = job->size;
	pool->jobs[job->shared].counted = true;
	return true;
}

/*
 * Have a job run: give it a worker, or put it into its queue.
 */
static Place
place_job(Job *job, LaunchMode mode)
{
	SharedJob  *shared = &pool->jobs[job->shared];
	Kind	   *kind = &pool->kinds[shared->kind];
	Place		place;

	set_phase(job, PHASE_LAUNCHED);
	lock_pool();
	kind->reserved--;
	counters_of(shared->kind)->launched++;
	enqueue_job(job->shared, false);
	(void) dispatch(shared->kind);
	if (shared_state(job->shared) != JOB_QUEUED)
		place = place_of_worker(job);
	else if (mode == LAUNCH_SUBMIT && is_any_ending_job(shared))
		place = PLACE_LINE;
	else
	{
		job->over_memory = mode == LAUNCH_SUBMIT && kind->nworkers > 0 &&
			!charge_job(job);
		place = mode == LAUNCH_QUEUE ||
			(mode == LAUNCH_SUBMIT && kind->nworkers > 0 && !job->over_memory) ?
			PLACE_QUEUE : PLACE_LINE;
	}
	shared->awaited = place == PLACE_LINE;
	unlock_pool();
	return place;
}

/* Errors: 53000. */
static void
queue_full_error(void)
{
	bool		too_many;

	/* More memory is of no use then. */
	lock_pool();
	too_many = pool->ncharged >= MAX_QUEUED_JOBS;
	unlock_pool();
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("too many background jobs are queued"),
			 too_many ? errdetail("There can be %d.", MAX_QUEUED_JOBS) :
			 errdetail("\"pg_background.queue_memory\" allows %d kB.",
					   queue_memory),
			 too_many ? errhint("Wait for some to end.") :
			 errhint("Wait for some to end, or have an administrator increase it.")));
}

/*
 * No worker was to be had in time: say which limit is in the way.
 *
 * Errors: 53000, or 53400 where the session has as many jobs as it may have.
 */
static void
no_worker_error(Job *job, Place place, ProcessLimit limit)
{
	bool		session_limit;

	if (place == PLACE_PROCESS)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start background process"),
				 errhint("More details may be available in the server log.")));

	if (job->over_memory)
		queue_full_error();
	lock_pool();
	session_limit = !may_begin(&pool->jobs[job->shared]);
	unlock_pool();
	if (session_limit)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many background jobs of this session are running"),
				 errhint("Wait for some to end, or increase \"pg_background.max_workers\".")));
	switch (limit)
	{
		case LIMIT_TOTAL:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("no background worker is free"),
					 errdetail_plural("\"pg_background.max_total_workers\" allows %d process.",
									  "\"pg_background.max_total_workers\" allows %d processes.",
									  max_total_workers, max_total_workers),
					 errhint("Wait longer with \"pg_background.launch_timeout\"; only an administrator can allow more processes.")));
			break;
		case LIMIT_ROLE:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("no background worker is free"),
					 errdetail_plural("\"pg_background.max_role_workers\" allows %d process of this user.",
									  "\"pg_background.max_role_workers\" allows %d processes of this user.",
									  max_role_workers, max_role_workers),
					 errhint("Wait longer with \"pg_background.launch_timeout\"; only an administrator can allow more processes.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not register background process"),
					 errdetail("No background worker slot is free."),
					 errhint("Wait longer with \"pg_background.launch_timeout\", or increase \"max_worker_processes\".")));
	}
}

/*
 * Wait in line until a job has a worker, and that a PID; or until it has ended.
 * tell says to be woken as soon as it begins, rather than when it ends.
 *
 * Errors: 53000 where that takes longer than pg_background.launch_timeout, 40P01
 * where all workers that could take it wait for what this session holds, and
 * whatever interrupts us.
 */
static void
wait_for_turn(Job *job, bool tell)
{
	TimestampTz deadline = 0;
	TimestampTz start_deadline = 0;
	TimestampTz check_at = 0;
	int			retry = SLOT_RETRY;
	Look		look = {.history = &launcher_looks, .limit = look_time};

	pool->jobs[job->shared].tell = tell;
	for (;;)
	{
		ProcessLimit limit = LIMIT_NONE;
		TimestampTz retry_at;
		TimestampTz now;
		Place		place;
		bool		progress;

		CHECK_FOR_INTERRUPTS();
		progress = pump_jobs();
		if (job_has_ended(job))
			return;
		place = look_for_worker(job, &limit, &retry_at, &retry);
		if (place == PLACE_WORKER)
		{
			look_ended(&look);
			return;
		}
		if (progress || look_again(&look))
			continue;

		now = GetCurrentTimestamp();
		if (deadline == 0)
		{
			deadline = TimestampTzPlusMilliseconds(now, launch_timeout);
			start_deadline = TimestampTzPlusMilliseconds(now, START_PATIENCE);
			check_at = TimestampTzPlusMilliseconds(now, DeadlockTimeout);
		}
		if (now >= (place == PLACE_LINE ? deadline : start_deadline))
			no_worker_error(job, place, limit);
		if (now >= check_at)
		{
			if (find_deadlock(&job, 1) != NULL)
				raise_deadlock(job);
			check_at = TimestampTzPlusMilliseconds(now, DeadlockTimeout);
		}
		if (place == PLACE_PROCESS)
			retry_at = start_deadline;
		sleep_until(place == PLACE_LINE ? deadline : start_deadline,
					retry_at != 0 ? Min(retry_at, check_at) : check_at,
					wait_event(&launch_wait_event, "PgBackgroundLaunch"));
	}
}

/*
 * What is told to be a job's PID is its handle's for good.  Until it begins, a
 * queued job has a number in its place.
 */
static void
number_job(Job *job)
{
	static pid_t number = 0;

	if (job->pid == 0)
	{
		job->pid = FIRST_JOB_NUMBER + number;
		number = (number + 1) % FIRST_JOB_NUMBER;
	}
	job->number = job->pid;
}

/*
 * Receive what some jobs have said, by turns, so that no one of thousands that this
 * session has launched is forgotten, and to launch another does not take a look at
 * all of them.
 */
static void
catch_up_with_some(void)
{
	for (int i = 0; i < CATCH_UP_JOBS && !dlist_is_empty(&running_jobs); i++)
	{
		Job		   *job = dlist_head_element(Job, running_node, &running_jobs);

		dlist_move_tail(&running_jobs, &job->running_node);
		receive_from(job);
	}
}

/*
 * Launch a job: find a worker that waits for one, or start one, or have it wait
 * in line.
 *
 * Errors: those of make_job(), publish_job() and wait_for_turn().
 */
static Job *
launch_job(JobSpec *spec, LaunchMode mode)
{
	Job		   *job = make_job(spec);
	Place		place;

	enter_job(job);
	PG_TRY();
	{
		catch_up_with_some();
		forget_unused_jobs();
		job->has_handle = mode == LAUNCH_BEGIN || mode == LAUNCH_SUBMIT;
		publish_job(job);
		/* The job may wait for all who have one, from its first moment. */
		InvalidateCatalogSnapshotConditionally();
		place = place_job(job, mode);
		if (place == PLACE_LINE || place == PLACE_PROCESS)
			wait_for_turn(job, mode != LAUNCH_RUN);
		number_job(job);
		drop_stale_jobs(job);
	}
	PG_CATCH();
	{
		LWLockReleaseAll();
		if (job->phase == PHASE_LAUNCHED)
			set_phase(job, PHASE_NEW);
		forget_job(job);
		PG_RE_THROW();
	}
	PG_END_TRY();

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
 * transaction: the pool knows the job, there is room for it in the queue, and a
 * worker that will take it.  The commit itself only enters it there.
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

/*
 * Have room for a pending job in the queue.
 *
 * Errors: 53000 where there is none in time.
 */
static void
wait_for_memory(Job *job)
{
	TimestampTz deadline = deadline_after(Max(launch_timeout, COMMIT_PATIENCE));
	bool		fits;

	lock_pool();
	fits = charge_job(job);
	pool->memory_waiters += !fits;
	unlock_pool();
	if (fits)
		return;

	ConditionVariablePrepareToSleep(&pool->memory_freed);
	PG_TRY();
	{
		while (!fits)
		{
			TimestampTz now = GetCurrentTimestamp();

			if (job->size > (Size) queue_memory * 1024 || now >= deadline)
				queue_full_error();
			(void) ConditionVariableTimedSleep(&pool->memory_freed,
											   Max(TimestampDifferenceMilliseconds(now, deadline), 1),
											   wait_event(&launch_wait_event, "PgBackgroundLaunch"));
			catch_up();
			lock_pool();
			fits = charge_job(job);
			unlock_pool();
		}
	}
	PG_FINALLY();
	{
		LWLockReleaseAll();
		ConditionVariableCancelSleep();
		lock_pool();
		pool->memory_waiters--;
		unlock_pool();
	}
	PG_END_TRY();
}

/*
 * Is there a worker that will take a pending job, or is one to start?  *limit says
 * what is in the way of that.
 */
static bool
has_worker(Job *job, ProcessLimit *limit)
{
	SharedJob  *shared = &pool->jobs[job->shared];
	Kind	   *kind = &pool->kinds[shared->kind];
	bool		found;

	lock_pool();
	if (kind->nworkers == 0)
	{
		*limit = start_process(shared->kind, -1);
		if (*limit != LIMIT_NONE)
		{
			kind->reserver = my_procno();
			kind->reserve_ticket = shared->ticket;
		}
		if (*limit == LIMIT_SLOTS || *limit == LIMIT_TOTAL)
			make_room(shared->kind, *limit);
	}
	found = kind->nworkers > 0;
	if (found)
		kind->reserver = -1;
	unlock_pool();
	return found;
}

/*
 * Have a worker for a pending job: one that will be there.
 *
 * Errors: 53000 where there is none in time.
 */
static void
wait_for_worker(Job *job)
{
	TimestampTz deadline = 0;
	int			retry = SLOT_RETRY;
	ProcessLimit limit = LIMIT_NONE;

	while (!has_worker(job, &limit))
	{
		if (deadline == 0)
			deadline = deadline_after(Max(launch_timeout, COMMIT_PATIENCE));
		if (GetCurrentTimestamp() >= deadline)
			no_worker_error(job, PLACE_LINE, limit);
		sleep_until(deadline, deadline_after(retry),
					wait_event(&launch_wait_event, "PgBackgroundLaunch"));
		retry = Min(2 * retry, 1000);
		CHECK_FOR_INTERRUPTS();
		catch_up();
	}
}

/*
 * The transaction is about to commit: have all that its jobs need.
 *
 * Errors: 53000.
 */
static void
prepare_pending_jobs(void)
{
	dlist_iter	iter;
	int			kind = -1;

	if (dlist_is_empty(&pending_jobs))
		return;
	catch_up();
	dlist_foreach(iter, &pending_jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		/* One that cannot connect may be gone by now, and has the slot still. */
		if (pool->jobs[job->shared].kind != kind)
			wait_for_worker(job);
		kind = pool->jobs[job->shared].kind;
	}
}

/* The transaction has committed.  Nothing here fails. */
static void
start_pending_jobs(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &pending_jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		dlist_delete(&job->node);
		dlist_push_tail(&jobs, &job->node);
		job->subxact = InvalidSubTransactionId;
		(void) place_job(job, LAUNCH_QUEUE);
		/* Its process may be about to start. */
		if (job->pid == 0)
			job->pid = job->number;
	}
}

/* Is the transaction beyond the point where its jobs were prepared? */
static bool committing = false;

static void
pending_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			prepare_pending_jobs();
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
 * Errors: those of make_job(), publish_job() and wait_for_memory(); at commit,
 * those of wait_for_worker().
 */
static void
launch_on_commit(JobSpec *spec)
{
	static bool registered = false;
	Job		   *job;
	JobEntry   *entry;

	if (!registered)
	{
		RegisterXactCallback(pending_xact_callback, NULL);
		RegisterSubXactCallback(pending_subxact_callback, NULL);
		registered = true;
	}

	spec->on_commit = true;
	job = make_job(spec);
	job->subxact = GetCurrentSubTransactionId();
	dlist_push_tail(&pending_jobs, &job->node);
	PG_TRY();
	{
		/* What could never fit need not be copied to see that. */
		if (job->request.sql_size + job->request.params_size >
			(Size) queue_memory * 1024)
			queue_full_error();
		publish_job(job);
		number_job(job);
		wait_for_memory(job);
		if (committing)
			wait_for_worker(job);
		entry = hash_search(jobs_by_cookie, &job->cookie, HASH_ENTER, NULL);
		entry->job = job;
	}
	PG_CATCH();
	{
		LWLockReleaseAll();
		forget_job(job);
		PG_RE_THROW();
	}
	PG_END_TRY();
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
						(int) job->pid),
				 errdetail("Only roles with the privileges of the one that launched its job may use it.")));
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

		if ((job->pid != pid && job->number != pid) || job->delivered)
			continue;
		if (job->is_v1)
			return job;
		if (last == NULL)
			last = job;
	}
	return last;
}

/*
 * The last jobs whose results were read, so that whoever reads one again is told
 * so.  The oldest is replaced.
 */
static struct
{
	int32		pid;
	int64		cookie;
}			read_jobs[64];
static int	next_read_job = 0;

static void
note_read(Job *job)
{
	read_jobs[next_read_job].pid = (int32) job->number;
	read_jobs[next_read_job].cookie = job->cookie;
	next_read_job = (next_read_job + 1) % lengthof(read_jobs);
}

/* Was the job of a handle read?  0 stands for any cookie. */
static bool
was_read(int32 pid, int64 cookie)
{
	for (int i = 0; i < lengthof(read_jobs); i++)
	{
		if (read_jobs[i].cookie != 0 && read_jobs[i].pid == pid &&
			(cookie == 0 || read_jobs[i].cookie == cookie))
			return true;
	}
	return false;
}

static void
raise_unknown_job(int32 pid, int64 cookie)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("PID %d is not attached to this session", pid),
			 was_read(pid, cookie) ?
			 errdetail("The result of its job has been read, which can be done once.") :
			 errhint("Only the session that launched a job knows it, until it is detached; in a connection pool that may be another session after each transaction.")));
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
		raise_unknown_job(pid, 0);
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
	if (entry == NULL || entry->job->delivered || pid == 0 ||
		(entry->job->pid != pid && entry->job->number != pid &&
		 entry->job->previous_pid != pid))
		return NULL;
	return entry->job;
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
		if (cookie != 0 && was_read(pid, cookie))
			raise_unknown_job(pid, cookie);
		(void) get_job_v1(pid);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cookie mismatch for PID %d", pid),
				 errhint("(f(...)).* calls a function once for each column, so that PID and cookie are of two jobs. Call it in FROM.")));
	}
	check_job_user(job);
	use_job(job);
	return job;
}

static const char *
job_state(Job *job)
{
	if (!job_has_ended(job))
	{
		return shared_state(job->shared) < JOB_RUNNING ? "starting" : "running";
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
	if (job_has_ended(job) || wait_for_job(job, deadline))
		return;
	signal_job(job, SIGTERM);
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
				 errmsg("remote query did not return a result set, but result rowtype is not a single text column"),
				 errhint("Read its command tags as one column of type text.")));

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
	if (reader->matches && !job_has_ended(reader->job))
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
		bool		ended = job_has_ended(job);

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
 *		How SQL calls us
 *
 * A catalog can be of another version of this extension, or of one like it: it
 * says what arguments our functions get and what they return, and the server
 * believes it.  So each function knows the declarations that it serves, and
 * finds out which one it was called by.
 *
 * A declaration is arguments, a blank and a result.  Types are letters there: i
 * int4, l int8, t text, c varchar, b bool, d float8, z timestamptz, o oid, j
 * jsonb, v void, a text[], k a handle, h an array of handles, w one of outcomes,
 * x a string, y bytea, s cstring, n internal, * the rest as VARIADIC, and u the
 * same as an array of strings.  Of an argument, a capital letter says that it may
 * be null.  Of a result, (...) is a row with such columns, "r" the rows that a
 * caller asks for; S before it says that it is a set.
 * ----------------------------------------------------------------
 */

/* The columns of pg_background_outcome */
#define OUTCOME			"(iltbbblttttz)"
#define OUTCOME_COLUMNS	12

/* Is this a type of such rows? */
static bool
is_composite_of(Oid type, const char *columns)
{
	TupleDesc	desc;
	bool		result;

	if (!OidIsValid(type) || get_typtype(type) != TYPTYPE_COMPOSITE)
		return false;
	desc = lookup_rowtype_tupdesc(type, -1);
	result = is_row_of(desc, columns);
	ReleaseTupleDesc(desc);
	return result;
}

/* Are the values of a type strings, as text has them? */
static bool
is_string(Oid type)
{
	char		category;
	bool		preferred;

	if (!OidIsValid(type) || get_typlen(type) != -1)
		return false;
	get_type_category_preferred(type, &category, &preferred);
	return category == TYPCATEGORY_STRING;
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
		case 'c':
			return type == VARCHAROID;
		case '*':
			return type == ANYOID || type == TEXTARRAYOID;
		case 'u':
			return is_string(get_element_type(type));
		case 'x':
			return is_string(type);
		case 'y':
			return type == BYTEAOID;
		case 's':
			return type == CSTRINGOID;
		case 'n':
			return type == INTERNALOID;
		case 'k':
			return is_composite_of(type, "(il)");
		case 'h':
			return is_composite_of(get_element_type(type), "(il)");
		case 'w':
			return is_composite_of(get_element_type(type), OUTCOME);
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
are_arguments(Form_pg_proc proc, const char *declaration)
{
	int			nargs = strcspn(declaration, " ");
	bool		is_variadic = false;

	if (proc->pronargs != nargs)
		return false;
	for (int i = 0; i < nargs; i++)
	{
		if (!is_type(proc->proargtypes.values[i], declaration[i]))
			return false;
		is_variadic |= declaration[i] == '*' || declaration[i] == 'u';
	}
	return OidIsValid(proc->provariadic) == is_variadic;
}

/*
 * What functions were found to be declared as, each at the remainder of its OID;
 * forgotten when a function or a row type may have changed.
 */
static struct
{
	Oid			function;
	const char *declaration;
}			checked_functions[128];

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

/* The result of a declaration */
static const char *
declared_result(const char *declaration)
{
	return strchr(declaration, ' ') + 1;
}

static const char *
find_declaration(Oid function, const char *const *declarations)
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
	while (*declarations != NULL &&
		   !(are_arguments(proc, *declarations) &&
			 is_result(proc, declared_result(*declarations))))
		declarations++;
	ReleaseSysCache(tuple);
	if (*declarations == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is not declared as this version of pg_background has it",
						format_procedure(function)),
				 errdetail("The catalog is that of another version."),
				 errhint("Run ALTER EXTENSION pg_background UPDATE, or install the library of the version that the catalog has.")));
	return *declarations;
}

/*
 * Find out by which of some declarations a function was called, and check that
 * there are no nulls where it takes none.
 *
 * Errors: 42P13 by none of them, 22004.
 */
static const char *
find_call(FunctionCallInfo fcinfo, const char *const *declarations)
{
	Oid			function = fcinfo->flinfo->fn_oid;
	int			slot = function % lengthof(checked_functions);
	const char *declaration = checked_functions[slot].declaration;

	if (checked_functions[slot].function != function)
	{
		declaration = find_declaration(function, declarations);
		checked_functions[slot].function = function;
		checked_functions[slot].declaration = declaration;
	}

	for (int i = 0; i < PG_NARGS() && declaration[i] != '*'; i++)
	{
		if (PG_ARGISNULL(i) && declaration[i] >= 'a' && declaration[i] <= 'z' &&
			declaration[i] != 'u')
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d of %s must not be null", i + 1,
							format_procedure(function))));
	}
	return declaration;
}

#define check_call(fcinfo, ...) \
	find_call(fcinfo, (const char *const[]) {__VA_ARGS__, NULL})

/*
 * A name by which versions 1.x, or those from 2.0 on, call a function that does
 * the same for both.
 */
#define ANOTHER_NAME(function, name) \
	PG_FUNCTION_INFO_V1(name); \
	Datum \
	name(PG_FUNCTION_ARGS) \
	{ \
		return function(fcinfo); \
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
		note_read(job);
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
						(int) job->pid),
				 errhint("Launch a job, rather than submit it, to read its rows.")));
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
	note_read(job);
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
 * Make a value of the composite type that a function is declared to return.
 *
 * Errors: 42804 where that was altered since check_call().
 */
static Datum
make_composite(FunctionCallInfo fcinfo, const char *declaration,
			   Datum *values, bool *isnull)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		!is_row_of(desc, declared_result(declaration)))
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

	values[0] = Int32GetDatum((int32) job->number);
	values[1] = Int64GetDatum(job->cookie);
	return make_composite(fcinfo, " (il)", values, isnull);
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

/* One that is a composite value */
static Handle
read_handle(Datum value)
{
	HeapTupleHeader tuple = DatumGetHeapTupleHeader(value);
	Handle		handle = {0};
	Datum		pid;
	Datum		cookie;
	bool		pid_isnull;
	bool		cookie_isnull;

	pid = GetAttributeByNum(tuple, 1, &pid_isnull);
	cookie = GetAttributeByNum(tuple, 2, &cookie_isnull);
	handle.isnull = pid_isnull || cookie_isnull;
	/* Where int8 is passed by reference, there is nothing to look at. */
	handle.pid = pid_isnull ? 0 : DatumGetInt32(pid);
	handle.cookie = cookie_isnull ? 0 : DatumGetInt64(cookie);
	return handle;
}

/* The handle that a function is called with: a value, or PID and cookie */
static Handle
handle_arg(FunctionCallInfo fcinfo, const char *declaration)
{
	Handle		handle = {0};

	if (pg_tolower(declaration[0]) == 'k')
	{
		handle.isnull = PG_ARGISNULL(0);
		return handle.isnull ? handle : read_handle(PG_GETARG_DATUM(0));
	}
	handle.isnull = PG_ARGISNULL(0) || PG_ARGISNULL(1);
	handle.pid = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	handle.cookie = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1);
	return handle;
}

/*
 * The job that a function is called for, by its handle or, where the function
 * has no cookie, by its PID
 *
 * Errors: those of get_job_v1() and get_job_v2().
 */
static Job *
job_arg(FunctionCallInfo fcinfo, const char *declaration)
{
	Handle		handle;

	if (strncmp(declaration, "i ", 2) == 0)
		return get_job_v1(PG_GETARG_INT32(0));
	handle = handle_arg(fcinfo, declaration);
	return get_job_v2(handle.pid, handle.cookie);
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

/* The time that a function is given as its last argument, 0 where it takes none. */
static int32
last_time(FunctionCallInfo fcinfo, const char *declaration)
{
	int			last = PG_NARGS() - 1;

	return declaration[last] == 'i' ? PG_GETARG_INT32(last) : 0;
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
 * pg_background_launch(sql text, queue_size int4 [, label text])
 * returns pg_background_handle
 *
 * Launch a job.  In versions 1.x its handle is the PID of its worker.
 *
 * Errors: those of launch_job().
 */
PG_FUNCTION_INFO_V1(pg_background_launch);
Datum
pg_background_launch(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "TI i", "TI (il)", "TIT (il)",
										 "CIT (il)");
	JobSpec		spec = launch_args(fcinfo);
	Job		   *job;

	spec.is_v1 = declared_result(declaration)[0] == 'i';
	spec.since_2 = !spec.is_v1;
	job = launch_job(&spec, LAUNCH_BEGIN);
	if (spec.is_v1)
		PG_RETURN_INT32((int32) job->number);
	return job_handle(fcinfo, job);
}

/*
 * pg_background_launch_v2(sql text, queue_size int4 [, label text])
 * returns pg_background_handle
 *
 * The same, as versions 1.x have it.
 */
PG_FUNCTION_INFO_V1(pg_background_launch_v2);
Datum
pg_background_launch_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	(void) check_call(fcinfo, "TI (il)", "TIT (il)");
	spec = launch_args(fcinfo);
	return job_handle(fcinfo, launch_job(&spec, LAUNCH_BEGIN));
}

/*
 * pg_background_submit(sql text, queue_size int4 [, label text])
 * returns pg_background_handle
 *
 * Launch a job whose result is never read; the worker does not even send it.
 *
 * Errors: those of launch_job().
 */
PG_FUNCTION_INFO_V1(pg_background_submit);
Datum
pg_background_submit(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	(void) check_call(fcinfo, "TI (il)", "TIT (il)", "CIT (il)");
	spec = launch_args(fcinfo);
	spec.since_2 = true;
	spec.submitted = true;
	return job_handle(fcinfo, launch_job(&spec, LAUNCH_SUBMIT));
}

/*
 * pg_background_submit_v2(sql text, queue_size int4 [, label text])
 * returns pg_background_handle
 *
 * The same, as versions 1.x have it.
 */
PG_FUNCTION_INFO_V1(pg_background_submit_v2);
Datum
pg_background_submit_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	(void) check_call(fcinfo, "TI (il)", "TIT (il)");
	spec = launch_args(fcinfo);
	spec.submitted = true;
	return job_handle(fcinfo, launch_job(&spec, LAUNCH_SUBMIT));
}

/*
 * pg_background_result(h pg_background_handle) returns setof record
 * pg_background_result(pid int4 [, cookie int8]) returns setof record
 *
 * Wait for a job and return its rows, once.
 *
 * Errors: those of return_result().
 */
PG_FUNCTION_INFO_V1(pg_background_result);
Datum
pg_background_result(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "i Sr", "il Sr", "k Sr");

	return return_result(fcinfo, job_arg(fcinfo, declaration));
}

ANOTHER_NAME(pg_background_result, pg_background_result_v2)

/*
 * pg_background_detach(h pg_background_handle) returns void
 * pg_background_detach(pid int4 [, cookie int8]) returns void
 *
 * Forget a job.  It goes on to its end, and its output is dropped.
 */
PG_FUNCTION_INFO_V1(pg_background_detach);
Datum
pg_background_detach(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "i v", "il v", "k v");

	forget_job(job_arg(fcinfo, declaration));
	PG_RETURN_VOID();
}

ANOTHER_NAME(pg_background_detach, pg_background_detach_v2)

/*
 * pg_background_cancel(h pg_background_handle, grace_ms int4) returns void
 * pg_background_cancel(pid int4, cookie int8 [, grace_ms int4]) returns void
 *
 * Ask for a job to be canceled, and wait for so many milliseconds, at most an
 * hour, until it is.  Nothing happens where it has ended.
 */
PG_FUNCTION_INFO_V1(pg_background_cancel);
Datum
pg_background_cancel(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "il v", "ili v", "ki v");
	int32		grace = Min(last_time(fcinfo, declaration), MAX_TIMEOUT);
	Job		   *job = job_arg(fcinfo, declaration);

	if (!job_has_ended(job))
		cancel_job(job);
	if (grace > 0)
		(void) wait_for_job(job, deadline_after(grace));
	PG_RETURN_VOID();
}

ANOTHER_NAME(pg_background_cancel, pg_background_cancel_v2)

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
	const char *declaration = check_call(fcinfo, "ili v");
	int			grace = check_timeout(PG_GETARG_INT32(2), "grace period");
	Job		   *job = job_arg(fcinfo, declaration);

	if (!job_has_ended(job))
		cancel_job(job);
	end_with_grace(job, deadline_after(grace));
	PG_RETURN_VOID();
}

/*
 * pg_background_wait(h pg_background_handle, timeout_ms int4) returns bool
 * pg_background_wait(pid int4, cookie int8, timeout_ms int4) returns bool
 * pg_background_wait(pid int4, cookie int8) returns void
 *
 * Wait until a job has ended, however it did, or until so many milliseconds have
 * passed, 0 or less meaning as long as it takes; say whether it has ended.  Its
 * result is kept.
 *
 * Errors: those of wait_for_progress().
 */
PG_FUNCTION_INFO_V1(pg_background_wait);
Datum
pg_background_wait(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "il v", "ili b", "ki b");
	int32		timeout = last_time(fcinfo, declaration);
	Job		   *job = job_arg(fcinfo, declaration);

	PG_RETURN_BOOL(wait_for_job(job, timeout > 0 ? deadline_after(timeout) : 0));
}

ANOTHER_NAME(pg_background_wait, pg_background_wait_v2)

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
	const char *declaration = check_call(fcinfo, "ili b");
	int			timeout = check_timeout(PG_GETARG_INT32(2), "timeout");

	PG_RETURN_BOOL(wait_for_job(job_arg(fcinfo, declaration),
								deadline_after(timeout)));
}

/* What pg_background_list() returns; until 1.9, there was no label */
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

	keep_progress(job);
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
 * pg_background_list() returns setof record
 *
 * List the session's jobs that the current user may use, in the order of
 * launch, with or without their labels.
 *
 * Errors: 0A000 without a column definition list, 42804 with a wrong one.
 */
PG_FUNCTION_INFO_V1(pg_background_list);
Datum
pg_background_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo;
	int			natts;
	bool		matches;
	dlist_iter	iter;

	(void) check_call(fcinfo, " Sr");
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
						format_procedure(fcinfo->flinfo->fn_oid)),
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

ANOTHER_NAME(pg_background_list, pg_background_list_v2)

/*
 * pg_background_handle_pid(h pg_background_handle) returns int4
 *
 * The PID of a handle, to cast it to what a handle was before 2.0.  From then on
 * it is one, and its process is given no other job.
 */
PG_FUNCTION_INFO_V1(pg_background_handle_pid);
Datum
pg_background_handle_pid(PG_FUNCTION_ARGS)
{
	Handle		handle;
	Job		   *job;

	(void) check_call(fcinfo, "k i");
	handle = read_handle(PG_GETARG_DATUM(0));
	if (handle.isnull)
		PG_RETURN_NULL();
	job = find_job(handle.pid, handle.cookie);
	if (job != NULL)
		job->is_v1 = true;
	PG_RETURN_INT32(handle.pid);
}

/*
 * Input and output of pg_background_untyped, which is stored as text is.  The
 * server's own functions for text take it that nulls are kept from them, which
 * the owner of ours, who need not be a superuser, can alter.  The server calls
 * input functions with a null that is not said to be one.
 *
 * Errors: 22004, those of the functions for text.
 */
#define UNTYPED_IO(name, of_text, declaration) \
	PG_FUNCTION_INFO_V1(name); \
	Datum \
	name(PG_FUNCTION_ARGS) \
	{ \
		(void) check_call(fcinfo, declaration); \
		if (PG_GETARG_POINTER(0) == NULL) \
			ereport(ERROR, \
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), \
					 errmsg("argument %d of %s must not be null", 1, \
							format_procedure(fcinfo->flinfo->fn_oid)))); \
		return of_text(fcinfo); \
	}

UNTYPED_IO(pg_background_untyped_in, textin, "s x")
UNTYPED_IO(pg_background_untyped_out, textout, "x s")
UNTYPED_IO(pg_background_untyped_recv, textrecv, "n x")
UNTYPED_IO(pg_background_untyped_send, textsend, "x y")

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

/* Its command, without the numbers that follow */
static Datum
command_tag(Job *job, bool *isnull)
{
	char	   *tag = NULL;

	if (job->ncommands > 0)
	{
		tag = pstrdup(job->command_tag);
		tag[strcspn(tag, "0123456789")] = '\0';
		if (tag[0] != '\0' && tag[strlen(tag) - 1] == ' ')
			tag[strlen(tag) - 1] = '\0';
	}
	return text_or_null(tag, isnull);
}

/*
 * pg_background_full_sql(h pg_background_handle) returns text
 * pg_background_full_sql(pid int4, cookie int8) returns text
 *
 * The whole SQL string of a job.
 */
PG_FUNCTION_INFO_V1(pg_background_full_sql);
Datum
pg_background_full_sql(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "il t", "k t");

	PG_RETURN_TEXT_P(cstring_to_text(job_arg(fcinfo, declaration)->sql));
}

ANOTHER_NAME(pg_background_full_sql, pg_background_full_sql_v2)

/*
 * pg_background_result_info(h pg_background_handle)
 * returns pg_background_result_info
 * pg_background_result_info(pid int4, cookie int8)
 * returns pg_background_result_info
 *
 * What is known of a job's result, without reading it.
 */
PG_FUNCTION_INFO_V1(pg_background_result_info);
Datum
pg_background_result_info(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "il (ltbb)", "il (ltbbzz)",
										 "k (ltbbzz)");
	Job		   *job = job_arg(fcinfo, declaration);
	Datum		values[6];
	bool		isnull[6] = {0};

	catch_up();
	values[0] = row_count(job, &isnull[0]);
	values[1] = command_tag(job, &isnull[1]);
	values[2] = BoolGetDatum(job_has_ended(job));
	values[3] = BoolGetDatum(job->error != NULL);
	values[4] = TimestampTzGetDatum(job->launched_at);
	values[5] = TimestampTzGetDatum(job->launched_at + job->execution);
	isnull[5] = !job_has_ended(job);
	return make_composite(fcinfo, declaration, values, isnull);
}

ANOTHER_NAME(pg_background_result_info, pg_background_result_info_v2)

/*
 * pg_background_error_info(h pg_background_handle)
 * returns pg_background_error
 * pg_background_error_info(pid int4, cookie int8) returns pg_background_error
 *
 * The error that ended a job, NULL where there was none.
 */
PG_FUNCTION_INFO_V1(pg_background_error_info);
Datum
pg_background_error_info(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "il (ttttt)",
										 "il (ttttttttt)", "k (ttttttttt)");
	Job		   *job = job_arg(fcinfo, declaration);
	ErrorData  *error;
	Datum		values[9];
	bool		isnull[9] = {0};

	catch_up();
	error = job->error;
	if (error == NULL)
		PG_RETURN_NULL();
	values[0] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[1] = text_or_null(error->message, &isnull[1]);
	values[2] = text_or_null(error->detail, &isnull[2]);
	values[3] = text_or_null(error->hint, &isnull[3]);
	values[4] = text_or_null(error->context, &isnull[4]);
	values[5] = text_or_null(error->schema_name, &isnull[5]);
	values[6] = text_or_null(error->table_name, &isnull[6]);
	values[7] = text_or_null(error->column_name, &isnull[7]);
	values[8] = text_or_null(error->constraint_name, &isnull[8]);
	return make_composite(fcinfo, declaration, values, isnull);
}

ANOTHER_NAME(pg_background_error_info, pg_background_error_info_v2)

/*
 * pg_background_get_progress(h pg_background_handle)
 * returns pg_background_progress_info
 * pg_background_get_progress(pid int4, cookie int8)
 * returns pg_background_progress_info
 *
 * What a job has last said of its progress, NULL where it has said nothing, and
 * where there is no such job.  Until 1.11, the type was pg_background_progress.
 *
 * Errors: 42501 where the job is another user's.
 */
PG_FUNCTION_INFO_V1(pg_background_get_progress);
Datum
pg_background_get_progress(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "IL (it)", "K (it)");
	Handle		handle = handle_arg(fcinfo, declaration);
	Job		   *job;
	Datum		values[2];
	bool		isnull[2] = {0};

	check_not_parallel();
	job = handle.isnull ? NULL : find_job(handle.pid, handle.cookie);
	if (job == NULL)
		PG_RETURN_NULL();
	check_job_user(job);
	use_job(job);
	catch_up();
	keep_progress(job);
	if (job->progress_pct < 0)
		PG_RETURN_NULL();
	values[0] = Int32GetDatum(job->progress_pct);
	values[1] = text_or_null(job->progress_msg[0] != '\0' ?
							 job->progress_msg : NULL, &isnull[1]);
	return make_composite(fcinfo, declaration, values, isnull);
}

ANOTHER_NAME(pg_background_get_progress, pg_background_get_progress_v2)

/*
 * pg_background_report_progress(pct int4, msg text) returns void
 *
 * Called in a job: say how far it is.  Out of 0 to 100, pct counts as the
 * nearer of the two.
 *
 * Errors: 0A000 outside of a job, 22004 for no percentage.
 */
PG_FUNCTION_INFO_V1(pg_background_report_progress);
Datum
pg_background_report_progress(PG_FUNCTION_ARGS)
{
	char	   *message = "";

	(void) check_call(fcinfo, "IT v");
	if (my_body == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("progress can be reported in a background job only")));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("percentage must not be null")));
	if (!PG_ARGISNULL(1))
		message = clip_text(text_to_cstring(PG_GETARG_TEXT_PP(1)),
							PROGRESS_SIZE - 1);

	SpinLockAcquire(&my_body->mutex);
	my_body->info.progress_pct = Max(0, Min(100, PG_GETARG_INT32(0)));
	strlcpy(my_body->info.progress_msg, message, PROGRESS_SIZE);
	SpinLockRelease(&my_body->mutex);
	PG_RETURN_VOID();
}

ANOTHER_NAME(pg_background_report_progress, pg_background_progress)

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
		return;

	error = job->error;
	use_job(job);
	memset(isnull, 0, OUTCOME_COLUMNS * sizeof(bool));
	values[0] = Int32GetDatum((int32) job->pid);
	values[1] = Int64GetDatum(job->cookie);
	values[2] = CStringGetTextDatum(job_state(job));
	values[3] = BoolGetDatum(job->consumed);
	values[4] = BoolGetDatum(job_has_ended(job));
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

/* What became of the job that a handle names. */
static void
handle_outcome(Handle *handle, Datum *values, bool *isnull)
{
	values[0] = Int32GetDatum(handle->pid);
	values[1] = Int64GetDatum(handle->cookie);
	isnull[0] = isnull[1] = handle->isnull;
	job_outcome(handle->isnull ? NULL :
				look_up_job(handle->pid, handle->cookie), values, isnull);
	/* Of a job that was queued, a handle has its number. */
	if (!isnull[0])
		values[0] = Int32GetDatum(handle->pid);
}

/* What became of the job whose handle a function gets. */
static void
outcome_arg(FunctionCallInfo fcinfo, const char *declaration, Datum *values,
			bool *isnull)
{
	Handle		handle = handle_arg(fcinfo, declaration);

	catch_up();
	handle_outcome(&handle, values, isnull);
}

/*
 * pg_background_outcome(h pg_background_handle)
 * returns pg_background_outcome
 * pg_background_outcome(p_pid int4, p_cookie int8)
 * returns pg_background_outcome
 *
 * What became of a job.  Never raises an error: of what is not a handle of this
 * user, all is null.
 */
PG_FUNCTION_INFO_V1(pg_background_outcome);
Datum
pg_background_outcome(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "IL " OUTCOME, "K " OUTCOME);
	Datum		values[OUTCOME_COLUMNS];
	bool		isnull[OUTCOME_COLUMNS] = {0};

	outcome_arg(fcinfo, declaration, values, isnull);
	return make_composite(fcinfo, declaration, values, isnull);
}

ANOTHER_NAME(pg_background_outcome, pg_background_outcome_v2)

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
 * The same as pg_background_outcome(), as jsonb.
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
	const char *declaration;

	declaration = check_call(fcinfo, "IL j");
	for (int i = 0; i < OUTCOME_COLUMNS; i++)
		TupleDescInitEntry(desc, i + 1, names[i], types[i], -1, 0);
	finish_tuple_desc(desc);
	outcome_arg(fcinfo, declaration, values, isnull);
	return row_to_jsonb(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
														  values, isnull)));
}

/*
 * pg_background_stats() returns pg_background_stats
 *
 * What became of the session's jobs.  Each one launched is in one of the
 * other counts; those that took too long for a caller who set a limit are also
 * counted apart, which is new in 2.0.
 */
PG_FUNCTION_INFO_V1(pg_background_stats);
Datum
pg_background_stats(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, " (lllllidi)", " (llllidi)");
	Datum		values[8];
	bool		isnull[8] = {0};
	int			n = 0;

	catch_up();
	values[n++] = Int64GetDatum(stats.launched);
	values[n++] = Int64GetDatum(stats.completed);
	values[n++] = Int64GetDatum(stats.failed);
	values[n++] = Int64GetDatum(stats.canceled);
	if (strcmp(declaration, " (lllllidi)") == 0)
		values[n++] = Int64GetDatum(stats.timed_out);
	values[n++] = Int32GetDatum((int32) (stats.launched - stats.completed -
										 stats.failed - stats.canceled));
	values[n++] = Float8GetDatum(stats.completed > 0 ?
								 stats.execution / 1000.0 / stats.completed : 0);
	values[n++] = Int32GetDatum(max_workers);
	return make_composite(fcinfo, declaration, values, isnull);
}

ANOTHER_NAME(pg_background_stats, pg_background_stats_v2)

/*
 * pg_background_record_timeout() returns void
 *
 * Count a job that took too long.  Functions of 2.0 that set a limit call this.
 */
PG_FUNCTION_INFO_V1(pg_background_record_timeout);
Datum
pg_background_record_timeout(PG_FUNCTION_ARGS)
{
	(void) check_call(fcinfo, " v");
	stats.timed_out++;
	PG_RETURN_VOID();
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
			(!job_has_ended(job) && !running_too))
			continue;
		forget_job(job);
		count++;
	}
	return count;
}

/*
 * DISCARD ALL gives the session to another client, who must not have its jobs:
 * they are forgotten.
 */
static void
discard_all(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &jobs)
		forget_job(dlist_container(Job, node, iter.cur));
	memset(&stats, 0, sizeof(stats));
	dlist_foreach_modify(iter, &running_jobs)
		stats.launched++;
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
	bool		alters = IsA(pstmt->utilityStmt, AlterDatabaseSetStmt) ||
		IsA(pstmt->utilityStmt, AlterRoleSetStmt);

	(next_utility_hook != NULL ? next_utility_hook : standard_ProcessUtility)
		(pstmt, sql, keep_tree, context, params, environment, receiver, qc);
	if (discards_all)
		discard_all();
	if (alters)
		alters_logins = true;
}

/*
 * pg_background_detach_all() returns int4
 *
 * Forget all jobs of the user, and say how many.  They go on to their ends.
 */
PG_FUNCTION_INFO_V1(pg_background_detach_all);
Datum
pg_background_detach_all(PG_FUNCTION_ARGS)
{
	(void) check_call(fcinfo, " i");
	PG_RETURN_INT32(forget_jobs(true));
}

ANOTHER_NAME(pg_background_detach_all, pg_background_detach_all_v2)

/*
 * pg_background_purge() returns int4
 *
 * Forget the user's jobs that have ended, and say how many.
 */
PG_FUNCTION_INFO_V1(pg_background_purge);
Datum
pg_background_purge(PG_FUNCTION_ARGS)
{
	(void) check_call(fcinfo, " i");
	PG_RETURN_INT32(forget_jobs(false));
}

ANOTHER_NAME(pg_background_purge, pg_background_purge_v2)

/*
 * Cancel the user's running jobs whose label is like a pattern, or all for
 * NULL.  Where grace is positive, give them so many milliseconds, together.
 * Returns how many there were.
 *
 * The last come first, so that none of them begins in the place of one that ends.
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
	dlist_reverse_foreach(iter, &jobs)
	{
		Job		   *job = dlist_container(Job, node, iter.cur);

		if (job_has_ended(job) || !may_use_job(job))
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
 * pg_background_cancel_all() returns int4
 *
 * Ask for all running jobs of the user to be canceled, and say how many.
 */
PG_FUNCTION_INFO_V1(pg_background_cancel_all);
Datum
pg_background_cancel_all(PG_FUNCTION_ARGS)
{
	(void) check_call(fcinfo, " i");
	PG_RETURN_INT32(cancel_jobs(NULL, 0));
}

ANOTHER_NAME(pg_background_cancel_all, pg_background_cancel_all_v2)

/*
 * pg_background_cancel_by_label(pattern text, grace_ms int4) returns int4
 *
 * Ask for the user's running jobs to be canceled whose label is LIKE the
 * pattern, and say how many; none for no pattern.  Where grace_ms is positive,
 * those that have not ended after so many milliseconds have their processes
 * ended.
 *
 * Errors: 22023 where the grace is longer than an hour.
 */
PG_FUNCTION_INFO_V1(pg_background_cancel_by_label);
Datum
pg_background_cancel_by_label(PG_FUNCTION_ARGS)
{
	(void) check_call(fcinfo, "TI i");
	if (PG_ARGISNULL(0))
		PG_RETURN_INT32(0);
	PG_RETURN_INT32(cancel_jobs(PG_GETARG_TEXT_PP(0),
								PG_ARGISNULL(1) ? 0 :
								check_timeout(PG_GETARG_INT32(1),
											  "grace period")));
}

ANOTHER_NAME(pg_background_cancel_by_label, pg_background_cancel_by_label_v2)

/* A time limit that a caller gives for waiting: none for 0 or NULL. */
static TimestampTz
wait_limit(FunctionCallInfo fcinfo, int arg)
{
	int			timeout = 0;

	if (!PG_ARGISNULL(arg))
		timeout = check_timeout(PG_GETARG_INT32(arg), "timeout");
	return timeout == 0 ? 0 : deadline_after(timeout);
}

/* An array of handles that a caller gives */
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
		if (nulls[i])
			handles[i].isnull = true;
		else
			handles[i] = read_handle(elems[i]);
	}
	return handles;
}

/*
 * pg_background_drain(handles pg_background_handle[], timeout_ms int4)
 * returns setof pg_background_outcome
 *
 * Wait until all of some jobs have ended, or so many milliseconds have passed,
 * 0 meaning as long as it takes; return their outcomes in the order given, and
 * forget those that have ended.
 *
 * Errors: 22023 where the time is longer than an hour, those of
 * wait_for_progress().
 */
PG_FUNCTION_INFO_V1(pg_background_drain);
Datum
pg_background_drain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo;
	TimestampTz deadline;
	int			count;
	Handle	   *handles;

	(void) check_call(fcinfo, "HI S" OUTCOME);
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

		handle_outcome(&handles[i], values, isnull);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
							 values, isnull);
	}

	/* A handle may be among them more than once. */
	for (int i = 0; i < count; i++)
	{
		Job		   *job = look_up_job(handles[i].pid, handles[i].cookie);

		if (job != NULL && job_has_ended(job))
			forget_job(job);
	}
	return (Datum) 0;
}

ANOTHER_NAME(pg_background_drain, pg_background_drain_v2)

/* Of some jobs, the first one that has ended, NULL where none has. */
static Job *
first_to_end(Job **set, int njobs)
{
	Job		   *first = NULL;

	for (int i = 0; i < njobs; i++)
	{
		if (job_has_ended(set[i]) &&
			(first == NULL || set[i]->end_number < first->end_number))
			first = set[i];
	}
	return first;
}

/*
 * pg_background_wait_any(handles pg_background_handle[], timeout_ms int4)
 * returns pg_background_handle
 *
 * Wait until one of some jobs has ended, and return its handle; NULL where so
 * many milliseconds have passed before, 0 meaning as long as it takes, or
 * where none of the handles is one of this user.
 *
 * Errors: 22023 where the time is longer than an hour, those of
 * wait_for_progress().
 */
PG_FUNCTION_INFO_V1(pg_background_wait_any);
Datum
pg_background_wait_any(PG_FUNCTION_ARGS)
{
	TimestampTz deadline;
	int			count;
	Handle	   *handles;
	Job		  **set;
	Job		   *ended;
	int			njobs = 0;

	(void) check_call(fcinfo, "HI (il)");
	check_not_parallel();
	deadline = wait_limit(fcinfo, 1);
	handles = handle_args(fcinfo, 0, &count);
	set = palloc(Max(count, 1) * sizeof(Job *));
	for (int i = 0; i < count; i++)
	{
		Job		   *job = look_up_job(handles[i].pid, handles[i].cookie);

		if (job == NULL)
			continue;
		use_job(job);
		set[njobs++] = job;
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

ANOTHER_NAME(pg_background_wait_any, pg_background_wait_any_v2)

/* ----------------------------------------------------------------
 *		SQL functions: launch, wait and forget in one call
 * ----------------------------------------------------------------
 */

/* The columns of pg_background_run_result, from 2.0 on and in versions 1.x */
#define RUN_RESULT		"(iltbbblttttzbl)"
#define RUN_RESULT_1	"(ibbbltttl)"

/* How long a job that has run into its caller's time-out may take to end */
#define RUN_GRACE	1000

/* Cancel a job that nobody will have a handle of, and forget it. */
static void
abandon_job(Job *job)
{
	if (!job_has_ended(job))
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
 * Launch a job whose rows are not wanted, and wait for it until the deadline, 0
 * meaning as long as it takes.  A job that takes longer is canceled.  It has
 * ended then, and is the caller's to forget.
 */
static Job *
launch_and_wait(JobSpec *spec, TimestampTz deadline, bool *timed_out)
{
	Job		   *job;

	*timed_out = false;
	spec->submitted = true;
	job = launch_job(spec, LAUNCH_RUN);
	PG_TRY();
	{
		if (!wait_for_job(job, deadline))
		{
			*timed_out = true;
			cancel_job(job);
			end_with_grace(job, deadline_after(RUN_GRACE));
			(void) wait_for_job(job, 0);
		}
	}
	PG_CATCH();
	{
		LWLockReleaseAll();
		abandon_job(job);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return job;
}

/* The same, and return a pg_background_run_result. */
static Datum
run_job_now(FunctionCallInfo fcinfo, const char *declaration, JobSpec *spec,
			TimestampTz deadline)
{
	bool		timed_out;
	Job		   *job = launch_and_wait(spec, deadline, &timed_out);
	int64		elapsed = elapsed_since_launch(job);
	Datum		values[OUTCOME_COLUMNS + 2];
	bool		isnull[OUTCOME_COLUMNS + 2] = {0};

	stats.timed_out += timed_out;
	if (strcmp(declared_result(declaration), RUN_RESULT) == 0)
	{
		job_outcome(job, values, isnull);
		values[4] = BoolGetDatum(!timed_out);
		values[12] = BoolGetDatum(timed_out);
		values[13] = Int64GetDatum(elapsed);
	}
	else
	{
		values[0] = Int32GetDatum((int32) job->pid);
		values[1] = BoolGetDatum(!timed_out);
		values[2] = BoolGetDatum(timed_out);
		values[3] = BoolGetDatum(job->error != NULL);
		values[4] = row_count(job, &isnull[4]);
		values[5] = command_tag(job, &isnull[5]);
		values[6] = job_sqlstate(job, &isnull[6]);
		values[7] = job_message(job, &isnull[7]);
		values[8] = Int64GetDatum(elapsed);
	}
	forget_job(job);
	return make_composite(fcinfo, declaration, values, isnull);
}

/*
 * Launch a job and return its rows, in what time the deadline leaves, 0 meaning
 * as long as it takes.
 *
 * Errors: 57014 where it takes longer, and is canceled; those of launch_job(),
 * begin_set() and read_job(); the job's own.
 */
static Datum
query_job_now(FunctionCallInfo fcinfo, JobSpec *spec, TimestampTz deadline)
{
	ReturnSetInfo *rsinfo = begin_set(fcinfo);
	Job		   *job = launch_job(spec, LAUNCH_RUN);

	PG_TRY();
	{
		read_job(job, rsinfo, deadline);
	}
	PG_CATCH();
	{
		LWLockReleaseAll();
		abandon_job(job);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (job->error != NULL)
		raise_job_error(job);
	forget_job(job);
	return (Datum) 0;
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
 * pg_background_run(sql text, queue_size int4, timeout_ms int4, label text)
 * returns pg_background_run_result
 *
 * Launch a job, wait for it, say what became of it and forget it.  A job that
 * takes longer than timeout_ms, 0 meaning as long as it takes, is canceled.
 *
 * Errors: 22023 where the time is longer than an hour, those of launch_job()
 * and wait_for_progress(); the job's own is part of the result.
 */
PG_FUNCTION_INFO_V1(pg_background_run);
Datum
pg_background_run(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "TIIT " RUN_RESULT,
										 "TIIT " RUN_RESULT_1);
	JobSpec		spec = run_args(fcinfo);

	spec.since_2 = strcmp(declared_result(declaration), RUN_RESULT) == 0;
	return run_job_now(fcinfo, declaration, &spec, wait_limit(fcinfo, 2));
}

ANOTHER_NAME(pg_background_run, pg_background_run_v2)

/*
 * pg_background_run_query(sql text, queue_size int4, timeout_ms int4,
 *						   label text, col_def text)
 * returns setof record
 *
 * Launch a job, return its rows and forget it.  col_def is not needed, and
 * accepted for those who give it.
 *
 * Errors: 22023 where the time is longer than an hour, those of query_job_now().
 */
PG_FUNCTION_INFO_V1(pg_background_run_query);
Datum
pg_background_run_query(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	(void) check_call(fcinfo, "TIITT Sr");
	spec = run_args(fcinfo);
	spec.since_2 = true;
	return query_job_now(fcinfo, &spec, wait_limit(fcinfo, 2));
}

/*
 * pg_background_run_query_v2(sql text, queue_size int4, timeout_ms int4,
 *							  label text [, col_def text])
 * returns setof record
 *
 * The same, as versions 1.x have it.
 */
PG_FUNCTION_INFO_V1(pg_background_run_query_v2);
Datum
pg_background_run_query_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	(void) check_call(fcinfo, "TIITT Sr", "TIIT Sr");
	spec = run_args(fcinfo);
	return query_job_now(fcinfo, &spec, wait_limit(fcinfo, 2));
}

/*
 * pg_background_submit_on_commit(sql text, queue_size int4, label text)
 * returns void
 *
 * Launch a job when the transaction commits; never, where it or the
 * subtransaction is rolled back.  Its rows are never read.
 *
 * Errors: those of launch_on_commit().
 */
PG_FUNCTION_INFO_V1(pg_background_submit_on_commit);
Datum
pg_background_submit_on_commit(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	(void) check_call(fcinfo, "TIT v");
	spec = launch_args(fcinfo);
	spec.since_2 = true;
	spec.submitted = true;
	launch_on_commit(&spec);
	PG_RETURN_VOID();
}

/*
 * pg_background_submit_on_commit_v2(sql text, queue_size int4 [, label text])
 * returns void
 *
 * The same, as 1.11 has it.
 */
PG_FUNCTION_INFO_V1(pg_background_submit_on_commit_v2);
Datum
pg_background_submit_on_commit_v2(PG_FUNCTION_ARGS)
{
	JobSpec		spec;

	(void) check_call(fcinfo, "TI v", "TIT v");
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
 * which is serialized; strings whose type was left open are sent as text.  Values
 * that are kept elsewhere are fetched: the job cannot see what this transaction
 * can.
 *
 * Errors: 0A000 for an anonymous record.
 */
static void
params_args(FunctionCallInfo fcinfo, const char *declaration, JobSpec *spec)
{
	Datum	   *values;
	Oid		   *types;
	bool	   *nulls;
	StringInfo	params = makeStringInfo();

	spec->sql = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	if (declaration[1] == ' ')
		return;
	spec->nparams = Max(extract_variadic_args(fcinfo, 1, true,
											  &values, &types, &nulls), 0);
	spec->params = params;
	for (int i = 0; i < spec->nparams; i++)
	{
		int16		typlen;
		bool		typbyval;
		Size		size;
		char	   *start;

		if (declaration[1] == 'u')
			types[i] = TEXTOID;
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
 * pg_background_launch_params(sql text, VARIADIC params "any")
 * returns pg_background_handle
 *
 * Launch a job of a single statement, with parameters $1, $2 and so on, which
 * are sent as they are.
 *
 * Errors: those of launch_job() and params_args().
 */
PG_FUNCTION_INFO_V1(pg_background_launch_params);
Datum
pg_background_launch_params(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "T* (il)", "Tu (il)");
	JobSpec		spec = {0};

	params_args(fcinfo, declaration, &spec);
	return job_handle(fcinfo, launch_job(&spec, LAUNCH_BEGIN));
}

ANOTHER_NAME(pg_background_launch_params, pg_background_launch_params_v2)

/*
 * pg_background_submit_params(sql text, VARIADIC params "any")
 * returns pg_background_handle
 *
 * The same, where the result is never read.
 */
PG_FUNCTION_INFO_V1(pg_background_submit_params);
Datum
pg_background_submit_params(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "T* (il)", "Tu (il)");
	JobSpec		spec = {0};

	spec.submitted = true;
	params_args(fcinfo, declaration, &spec);
	return job_handle(fcinfo, launch_job(&spec, LAUNCH_SUBMIT));
}

ANOTHER_NAME(pg_background_submit_params, pg_background_submit_params_v2)

/*
 * pg_background_run_params(sql text, VARIADIC params "any")
 * returns pg_background_run_result
 *
 * The same, and wait for the job, say what became of it and forget it.
 */
PG_FUNCTION_INFO_V1(pg_background_run_params);
Datum
pg_background_run_params(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "T* " RUN_RESULT,
										 "Tu " RUN_RESULT, "T* " RUN_RESULT_1);
	JobSpec		spec = {0};

	params_args(fcinfo, declaration, &spec);
	return run_job_now(fcinfo, declaration, &spec, 0);
}

ANOTHER_NAME(pg_background_run_params, pg_background_run_params_v2)

/*
 * pg_background_exec(sql text [, VARIADIC params "any"]) returns int8
 *
 * Run a statement in a transaction of its own, and say how many rows it has
 * returned or changed.
 *
 * Errors: those of launch_job(), params_args() and wait_for_progress(), the
 * job's own.
 */
PG_FUNCTION_INFO_V1(pg_background_exec);
Datum
pg_background_exec(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "T l", "T* l", "Tu l");
	JobSpec		spec = {0};
	bool		timed_out;
	Job		   *job;
	int64		count;

	params_args(fcinfo, declaration, &spec);
	job = launch_and_wait(&spec, 0, &timed_out);
	if (job->error != NULL)
		raise_job_error(job);
	count = job->row_count;
	forget_job(job);
	PG_RETURN_INT64(count);
}

/*
 * pg_background_query(sql text [, VARIADIC params "any"]) returns setof record
 *
 * Run a statement in a transaction of its own, and return its rows.
 *
 * Errors: those of params_args() and query_job_now().
 */
PG_FUNCTION_INFO_V1(pg_background_query);
Datum
pg_background_query(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "T Sr", "T* Sr", "Tu Sr");
	JobSpec		spec = {0};

	params_args(fcinfo, declaration, &spec);
	return query_job_now(fcinfo, &spec, 0);
}

/* ----------------------------------------------------------------
 *		SQL functions: rows as jsonb
 * ----------------------------------------------------------------
 */

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
 * pg_background_result_jsonb(h pg_background_handle) returns setof jsonb
 * pg_background_result_jsonb(pid int4, cookie int8) returns setof jsonb
 *
 * Wait for a job and return its rows, once, each as to_jsonb() makes it an
 * object; or its command tags, where it returned none.
 *
 * Errors: those of check_readable() and wait_for_progress(), the job's own,
 * 0A000 for a column that no caller can take.
 */
PG_FUNCTION_INFO_V1(pg_background_result_jsonb);
Datum
pg_background_result_jsonb(PG_FUNCTION_ARGS)
{
	const char *declaration = check_call(fcinfo, "il Sj", "k Sj");
	Job		   *job = job_arg(fcinfo, declaration);
	ReturnSetInfo *rsinfo;

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

ANOTHER_NAME(pg_background_result_jsonb, pg_background_result_jsonb_v2)

/* ----------------------------------------------------------------
 *		SQL functions: a list of commands
 * ----------------------------------------------------------------
 */

/* Note which commands have ended, and whether to stop. */
static void
run_all_collect(RunAll *run)
{
	int			still = 0;

	for (int i = 0; i < run->nrunning; i++)
	{
		Job		   *job = run->running[i];
		int			number = run->numbers[i];

		if (job_has_ended(job))
		{
			run->elapsed[number] = elapsed_since_launch(job);
			if (job->error != NULL)
			{
				if (run->nfailed++ == 0)
					run->first_failed = number;
				run->stopped = run->stop_on_error;
			}
			continue;
		}
		run->running[still] = job;
		run->numbers[still++] = number;
	}
	run->nrunning = still;
}

/*
 * Launch commands until there are as many as may run.  Where no other runs, one
 * must have a worker; those that do not will have the next.
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
		job = launch_job(&spec, run->nrunning > 0 ? LAUNCH_QUEUE : LAUNCH_RUN);
		pin_job(job);
		run->running[run->nrunning] = job;
		run->numbers[run->nrunning++] = run->next;
		run->jobs[run->next++] = job;
	}
}

/*
 * Return a row for each command, with the command itself where that is declared;
 * of one that was not launched, there is nothing else.
 */
static void
run_all_return(RunAll *run)
{
	bool		with_command =
		run->rsinfo->setDesc->natts == OUTCOME_COLUMNS + 3;

	for (int i = 0; i < run->ncommands; i++)
	{
		Datum		values[OUTCOME_COLUMNS + 3];
		bool		isnull[OUTCOME_COLUMNS + 3];
		Job		   *job = i < run->next ? run->jobs[i] : NULL;
		int			column = 0;

		memset(isnull, job == NULL, sizeof(isnull));
		isnull[column] = false;
		values[column++] = Int64GetDatum(i + 1);
		if (with_command)
		{
			isnull[column] = false;
			values[column++] = PointerGetDatum(run->commands[i]);
		}
		if (job != NULL)
		{
			job_outcome(job, &values[column], &isnull[column]);
			values[column + OUTCOME_COLUMNS] = Int64GetDatum(run->elapsed[i]);
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

/*
 * Raise an error, since commands have failed.  It has a SQLSTATE of its own: by
 * that of a command, 40001 say, who sees it might try all of them again.
 */
static void
run_all_raise(RunAll *run)
{
	ErrorData  *error = run->jobs[run->first_failed]->error;
	char	   *command = text_to_cstring(run->commands[run->first_failed]);

	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg_plural("%d of %d command failed",
						   "%d of %d commands failed",
						   run->ncommands, run->nfailed, run->ncommands),
			 errdetail("The first was command %d, \"%s\", with SQLSTATE %s: %s",
					   run->first_failed + 1, clip_text(command, PREVIEW_SIZE),
					   unpack_sql_state(error->sqlerrcode), error->message),
			 errhint("What other commands have done is committed. The server log has the error of each that failed.")));
}

/* Forget all the jobs; none goes on that has not ended. */
static void
run_all_end(RunAll *run)
{
	for (int i = 0; i < run->next; i++)
	{
		abandon_job(run->jobs[i]);
		unpin_job(run->jobs[i]);
	}
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
 *
 * Errors: 38000 where some have failed and that is to be raised; those of
 * launch_job() and wait_for_progress().
 */
static void
run_all(RunAll *run)
{
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
			(void) wait_for_progress(run->running, run->nrunning, 0, true);
		}
		if (run->raise_error && run->nfailed > 0)
			run_all_raise(run);
		if (run->rsinfo != NULL)
			run_all_return(run);
		else
			run_all_array(run);
	}
	PG_CATCH();
	{
		LWLockReleaseAll();
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
	run->raise_error = PG_NARGS() > 3 && !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);

	run->jobs = palloc0(Max(run->ncommands, 1) * sizeof(Job *));
	run->elapsed = palloc(Max(run->ncommands, 1) * sizeof(int64));
	run->running = palloc(run->concurrency * sizeof(Job *));
	run->numbers = palloc(run->concurrency * sizeof(int));
}

/*
 * pg_background_run_all(commands text[], concurrency int4, stop_on_error bool,
 *						 raise_error bool)
 * returns setof (ordinality int8, command text, the columns of
 *				  pg_background_outcome, elapsed_ms int8)
 *
 * Run every command once, at most so many at a time, 0 meaning
 * pg_background.max_workers, on as few processes.  Where stop_on_error is true,
 * the first that fails cancels those that run, and no more are launched.  Where
 * raise_error is true and one has failed, raise an error in the end.
 *
 * By its older name there is neither that nor the command.
 *
 * Errors: 22004 for a command that is null, 22023 for a negative concurrency,
 * those of run_all().
 */
PG_FUNCTION_INFO_V1(pg_background_run_all);
Datum
pg_background_run_all(PG_FUNCTION_ARGS)
{
	RunAll		run = {0};

	(void) check_call(fcinfo, "AIBB S(ltiltbbblttttzl)",
					  "AIB S(liltbbblttttzl)");
	run.rsinfo = begin_set(fcinfo);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	run_all_args(fcinfo, &run);
	run_all(&run);
	return (Datum) 0;
}

ANOTHER_NAME(pg_background_run_all, pg_background_run_all_v2)

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
 *				stop_on_error bool, raise_error bool,
 *				INOUT outcomes pg_background_outcome[])
 *
 * The same as pg_background_run_all(), and hold no snapshot meanwhile, so that
 * commands which wait for those of others, as CREATE INDEX CONCURRENTLY does, do
 * not wait for us.  What is given for outcomes does not matter.
 *
 * Errors: the same.
 */
PG_FUNCTION_INFO_V1(pg_background_maintain);
Datum
pg_background_maintain(PG_FUNCTION_ARGS)
{
	RunAll		run = {0};
	const char *declaration = check_call(fcinfo, "AIBBW (w)");
	bool		isnull = PG_ARGISNULL(0);

	if (!isnull)
	{
		run_all_args(fcinfo, &run);
		run.outcome_type =
			get_element_type(get_fn_expr_argtype(fcinfo->flinfo, 4));
		let_go_of_snapshots(fcinfo);
		run_all(&run);
		EnsurePortalSnapshotExists();
	}
	return make_composite(fcinfo, declaration, &run.outcomes, &isnull);
}

/* ----------------------------------------------------------------
 *		SQL functions: the pool
 * ----------------------------------------------------------------
 */

#define WORKERS_COLUMNS	11

/* Return a row of pg_background_workers() for a worker; natts as declared. */
static void
list_worker(PoolWorker *worker, Kind *kind, JobInfo *info, JobState state,
			ReturnSetInfo *rsinfo)
{
	Datum		values[WORKERS_COLUMNS];
	bool		isnull[WORKERS_COLUMNS] = {0};
	bool		busy = worker->job >= 0;
	bool		visible = has_privs_of_role(GetUserId(), info->owner) ||
		has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);

	values[0] = Int32GetDatum((int32) worker->pid);
	values[1] = Int32GetDatum((int32) info->launcher_pid);
	values[2] = ObjectIdGetDatum(info->launcher_user);
	values[3] = ObjectIdGetDatum(info->user_id);
	values[4] = ObjectIdGetDatum(kind->database);
	values[5] = text_or_null(visible && info->label[0] != '\0' ?
							 info->label : NULL, &isnull[5]);
	values[6] = CStringGetTextDatum(!busy ? "idle" :
									state == JOB_STARTING ? "starting" :
									"running");
	isnull[6] = !visible;
	values[7] = TimestampTzGetDatum(info->launched_at);
	isnull[7] = !visible;
	values[8] = text_or_null(visible ? info->sql_preview : NULL, &isnull[8]);
	values[9] = Int32GetDatum(info->progress_pct);
	isnull[9] = !visible || !busy || info->progress_pct < 0;
	values[10] = text_or_null(!isnull[9] && info->progress_msg[0] != '\0' ?
							  info->progress_msg : NULL, &isnull[10]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
}

/*
 * pg_background_workers() returns setof (pid int4, launcher_pid int4,
 *		launcher_user oid, user_id oid, database oid, label text, state text,
 *		launched_at timestamptz, sql_preview text, progress_pct int4,
 *		progress_msg text)
 *
 * List the workers of all sessions of the cluster, with the job that each of
 * them runs, or has run last.  What a job is shows to those who may see the
 * queries of its user in pg_stat_activity.  In 1.11, the last two columns are
 * not there.
 */
PG_FUNCTION_INFO_V1(pg_background_workers);
Datum
pg_background_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo;

	(void) check_call(fcinfo, " S(iiooottztit)", " S(iiooottzt)");
	attach_pool();
	rsinfo = begin_set(fcinfo);
	for (int i = 0; i < max_worker_processes; i++)
	{
		PoolWorker	worker;
		Kind		kind;
		JobInfo		info;
		JobState	state = JOB_FREE;
		bool		used;

		lock_pool();
		worker = pool->workers[i];
		used = worker_state(&worker) != WORKER_FREE && worker.pid != 0;
		if (used)
		{
			kind = pool->kinds[worker.kind];
			info = worker.info;
			if (worker.job >= 0)
			{
				read_job_info(body_of(&pool->jobs[worker.job]), &info);
				state = shared_state(worker.job);
			}
		}
		unlock_pool();
		/* One that has had no job yet is nobody's. */
		if (used && info.launched_at != 0)
			list_worker(&worker, &kind, &info, state, rsinfo);
	}
	return (Datum) 0;
}

ANOTHER_NAME(pg_background_workers, pg_background_workers_v2)

#define POOL_COLUMNS	13

/* Add up what there is of the kinds that count with this one. */
static void
list_kind(int number, ReturnSetInfo *rsinfo)
{
	int			running = 0;
	int			idle = 0;
	int			queued = 0;
	int			waiting = 0;
	Kind		kind;
	Datum		values[POOL_COLUMNS];
	bool		isnull[POOL_COLUMNS] = {0};

	lock_pool();
	kind = pool->kinds[number];
	for (int i = 0; i <= pool->max_worker_number; i++)
	{
		PoolWorker *worker = &pool->workers[i];

		if (worker_state(worker) == WORKER_FREE ||
			pool->kinds[worker->kind].counted_with != number)
			continue;
		running += worker->job >= 0;
		idle += worker_state(worker) == WORKER_IDLE;
	}
	for (int k = 0; k < pool->nkinds; k++)
	{
		if (!pool->kinds[k].used || pool->kinds[k].counted_with != number)
			continue;
		queued += pool->kinds[k].njobs;
		for (int i = pool->kinds[k].first_job; i >= 0; i = pool->jobs[i].next)
			waiting += pool->jobs[i].awaited;
	}
	unlock_pool();
	if (!kind.used || kind.counted_with != number)
		return;

	values[0] = ObjectIdGetDatum(kind.database);
	values[1] = ObjectIdGetDatum(kind.login_user);
	values[2] = Int32GetDatum(running);
	values[3] = Int32GetDatum(idle);
	values[4] = Int32GetDatum(queued);
	values[5] = Int32GetDatum(waiting);
	values[6] = Int64GetDatum(kind.counters.launched);
	values[7] = Int64GetDatum(kind.counters.completed);
	values[8] = Int64GetDatum(kind.counters.failed);
	values[9] = Int64GetDatum(kind.counters.canceled);
	values[10] = Float8GetDatum(kind.counters.wait_time / 1000.0);
	values[11] = Float8GetDatum(kind.counters.run_time / 1000.0);
	values[12] = Int64GetDatum(kind.counters.started);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
}

/*
 * pg_background_pool() returns setof (database oid, login_user oid,
 *		running int4, idle int4, queued int4, waiting int4, launched int8,
 *		completed int8, failed int8, canceled int8, wait_ms float8,
 *		run_ms float8, started int8)
 *
 * For each database and user that workers connect as: what its workers do, how
 * many jobs have not begun and for how many of those a session waits; and, since
 * the server's start, what became of its jobs, how long they have waited and run
 * all together, and how many processes were started.
 */
PG_FUNCTION_INFO_V1(pg_background_pool);
Datum
pg_background_pool(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo;
	int			nkinds;

	(void) check_call(fcinfo, " S(ooiiiillllddl)");
	attach_pool();
	rsinfo = begin_set(fcinfo);
	lock_pool();
	nkinds = pool->nkinds;
	unlock_pool();
	for (int i = 0; i < nkinds; i++)
		list_kind(i, rsinfo);
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		What our own scripts need
 * ----------------------------------------------------------------
 */

/*
 * pg_background_grant_again(command text) returns void
 *
 * Run a command in an extension script as though it was not in one: what a user
 * has granted is granted again on what takes the place of what it was granted
 * on, and does not become a privilege that the extension gives.
 *
 * Errors: 55000 outside of an extension script, those of the command.
 */
PG_FUNCTION_INFO_V1(pg_background_grant_again);
Datum
pg_background_grant_again(PG_FUNCTION_ARGS)
{
	(void) check_call(fcinfo, "t v");
	if (!creating_extension)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s can only be called in an extension script",
						format_procedure(fcinfo->flinfo->fn_oid))));
	creating_extension = false;
	PG_TRY();
	{
		SPI_connect();
		SPI_execute(text_to_cstring(PG_GETARG_TEXT_PP(0)), false, 0);
		SPI_finish();
	}
	PG_FINALLY();
	{
		creating_extension = true;
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		What depends on the server's version
 *
 * Each difference has one name: here, or, where it is a type or a constant, in
 * what processes share.  Nothing else tests PG_VERSION_NUM.
 * ----------------------------------------------------------------
 */

#if PG_VERSION_NUM >= 180000
PG_MODULE_MAGIC_EXT(.name = LIBRARY_NAME,.version = LIBRARY_VERSION);
#else
PG_MODULE_MAGIC;
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

/* Our number among the PGPROCs, see GetPGProcByNumber() */
static int
my_procno(void)
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
 * The segment that the file of this name leads to, see named_segment().  Its first
 * 16 bytes are a magic number and what the file knows it by.
 */
#if PG_VERSION_NUM < 170000
typedef struct SegmentFile
{
	uint64		nonce;
	dsm_handle	handle;
} SegmentFile;

static dsm_segment *
find_segment_of_file(const char *path, Size size)
{
	SegmentFile known;
	dsm_segment *segment;
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	bool		complete;

	if (fd < 0)
		return NULL;
	complete = read(fd, &known, sizeof(known)) == sizeof(known);
	CloseTransientFile(fd);
	if (!complete)
		return NULL;
	segment = dsm_find_mapping(known.handle);
	if (segment == NULL)
		segment = dsm_attach(known.handle);
	if (segment == NULL)
		return NULL;
	if (dsm_segment_map_length(segment) >= size &&
		((uint64 *) dsm_segment_address(segment))[1] == known.nonce)
		return segment;
	dsm_detach(segment);
	return NULL;
}

static void *
segment_by_file(const char *name, Size size, void (*init) (void *))
{
	char		path[MAXPGPATH];
	dsm_segment *segment;

	snprintf(path, sizeof(path), "%s/%s", PG_STAT_TMP_DIR, name);
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	segment = find_segment_of_file(path, size);
	if (segment == NULL && init != NULL)
	{
		SegmentFile known = {0};
		int			fd;

		segment = dsm_create(size, 0);
		init(dsm_segment_address(segment));
		known.nonce = ((uint64 *) dsm_segment_address(segment))[1];
		known.handle = dsm_segment_handle(segment);
		fd = OpenTransientFile(path, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);
		errno = 0;
		if (fd < 0 || write(fd, &known, sizeof(known)) != sizeof(known))
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", path)));
		}
		CloseTransientFile(fd);
		dsm_pin_segment(segment);
	}
	if (segment != NULL)
		dsm_pin_mapping(segment);
	LWLockRelease(AddinShmemInitLock);
	return segment != NULL ? dsm_segment_address(segment) : NULL;
}
#endif

/*
 * A piece of shared memory that every process finds by its name, and init has
 * prepared; init may be NULL for one that is there.  It lasts until the server
 * ends.
 *
 * It takes nothing of the server's main shared memory, where others may have used
 * up what is left, such as locks.  Before 17, a file says where it is; of one that
 * is left from before the server's start, the segment is gone, or another's.
 *
 * Errors: those of dsm_create(), and of writing the file.
 */
#if PG_VERSION_NUM >= 190000
static void
init_named_segment(void *place, void *init)
{
	if (init != NULL)
		((void (*) (void *)) init) (place);
}
#endif

static void *
named_segment(const char *name, Size size, void (*init) (void *))
{
#if PG_VERSION_NUM >= 190000
	bool		found;

	return GetNamedDSMSegment(name, size, init_named_segment, &found, init);
#elif PG_VERSION_NUM >= 170000
	bool		found;

	return GetNamedDSMSegment(name, size, init, &found);
#else
	return segment_by_file(name, size, init);
#endif
}

static int
new_lock_tranche(const char *name)
{
#if PG_VERSION_NUM >= 190000
	return LWLockNewTrancheId(name);
#else
	return LWLockNewTrancheId();
#endif
}

/* Have this process know a tranche's name. */
static void
register_lock_tranche(int tranche, const char *name)
{
#if PG_VERSION_NUM < 190000
	LWLockRegisterTranche(tranche, name);
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
