/*
 * For t/430_on_commit.pl: an extension that does what the setting test.pre_commit
 * says when a transaction is about to commit, once.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static bool done = false;

static void
before_commit(XactEvent event, void *arg)
{
	const char *command = GetConfigOption("test.pre_commit", true, false);

	if (event != XACT_EVENT_PRE_COMMIT || done || command == NULL)
		return;
	done = true;
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_execute(command, false, 0);
	PopActiveSnapshot();
	SPI_finish();
}

void
_PG_init(void)
{
	RegisterXactCallback(before_commit, NULL);
}
