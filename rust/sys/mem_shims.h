/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions of the memory management that Rust cannot call.
 */
#ifndef BURROW_MEM_SHIMS_H
#define BURROW_MEM_SHIMS_H

#include <linux/types.h>

struct page;

/**
 * burrow_release_page() - give back a page, and tell the host that it was used
 * @page: the page; its reference is dropped
 * @dirty: whether it may have been, or may yet be, written
 *
 * Does not sleep.
 */
void burrow_release_page(struct page *page, bool dirty);

/**
 * burrow_put_page() - give back a page that was not used
 * @page: the page; its reference is dropped
 */
void burrow_put_page(struct page *page);

/**
 * burrow_host_level() - size in which the current address space maps an address
 * @hva: an address of it
 *
 * Takes no lock: the answer holds only as long as nobody invalidates the address.
 *
 * Return: 1, 2 or 3 for 4 KiB, 2 MiB or 1 GiB; 1 where nothing is mapped.
 */
int burrow_host_level(unsigned long hva);

/**
 * burrow_read_user() - read a word in the current address space
 * @hva: its address, a multiple of the size
 * @size: 4 or 8 bytes
 * @to: what was read
 *
 * Context: may sleep.
 * Return: 0, or -EFAULT.
 */
int burrow_read_user(unsigned long hva, unsigned int size, u64 *to);

/**
 * burrow_cmpxchg_user() - compare and exchange in the current address space
 * @hva: the address, a multiple of @size
 * @size: 1, 2, 4 or 8 bytes
 * @old: what is expected; what was found on return
 * @new: what to store
 *
 * Return: 0 if exchanged, 1 if something else was found, -EFAULT if the address cannot be written,
 * -EINVAL for another size.
 */
int burrow_cmpxchg_user(unsigned long hva, unsigned int size, u64 *old, u64 new);

/**
 * burrow_task_size() - the end of user addresses
 */
u64 burrow_task_size(void);

#endif
