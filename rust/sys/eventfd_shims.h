/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The inline parts of listening to an eventfd.
 */
#ifndef BURROW_EVENTFD_SHIMS_H
#define BURROW_EVENTFD_SHIMS_H

#include <linux/types.h>
#include <linux/wait.h>

struct file;

/**
 * burrow_eventfd_listen() - be told of an eventfd's signals, before and instead of its other waiters
 * @file: the eventfd
 * @wait: to be initialised and queued
 * @wake: what it calls, with the queue's lock held
 * @is_signalled: set to whether there had been a signal that nobody read
 *
 * Return: 0, or -EBUSY when the eventfd has such a listener already.
 */
int burrow_eventfd_listen(struct file *file, struct wait_queue_entry *wait,
			  wait_queue_func_t wake, bool *is_signalled);

#endif
