// SPDX-License-Identifier: GPL-2.0
/*
 * The inline parts of listening to an eventfd. See eventfd_shims.h.
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/poll.h>
#include <linux/wait.h>

#include "eventfd_shims.h"

struct listen {
	struct poll_table_struct table;
	struct wait_queue_entry *wait;
	int err;
};

static void join_queue(struct file *file, wait_queue_head_t *queue, poll_table *table)
{
	struct listen *listen = container_of(table, struct listen, table);

	listen->err = add_wait_queue_priority_exclusive(queue, listen->wait);
}

int burrow_eventfd_listen(struct file *file, struct wait_queue_entry *wait,
			  wait_queue_func_t wake, bool *is_signalled)
{
	struct listen listen = { .wait = wait, .err = -EINVAL };

	init_waitqueue_func_entry(wait, wake);
	init_poll_funcptr(&listen.table, join_queue);
	*is_signalled = vfs_poll(file, &listen.table) & EPOLLIN;
	return listen.err;
}
