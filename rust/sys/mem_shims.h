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
 * burrow_remapped_frame() - the frame behind an address without pages (VM_PFNMAP, VM_IO)
 * @hva: an address of the current address space
 * @is_write: whether it is to be written
 * @pfn: the frame
 * @is_writable: whether it may be written
 *
 * Faults the address in. Holds nothing: the answer is right until a notifier takes it back.
 *
 * Context: sleeps; takes the mmap_lock for reading.
 * Return: 0, -EINTR on a fatal signal, -EFAULT where no such mapping is, or not with that right.
 */
int burrow_remapped_frame(unsigned long hva, bool is_write, u64 *pfn, bool *is_writable);

/**
 * burrow_is_device_frame() - whether a frame must not be cached
 * @pfn: a frame that no page reference stands for
 *
 * Return: true for what is no memory, and for reserved memory that the host does not cache.
 */
bool burrow_is_device_frame(u64 pfn);

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
 * struct burrow_user_word - a word in the current address space, and what is expected there
 * @hva: its address, a multiple of 8
 * @value: what is expected
 */
struct burrow_user_word {
	u64 hva;
	u64 value;
};

/**
 * burrow_peek_user() - read 16 bytes if some words hold what is expected, without sleep
 * @words: the words
 * @nr: how many there are
 * @from: the address of the bytes
 * @to: the bytes
 *
 * Context: any in which the address space is the current one; what is not there is not brought in.
 * Return: whether all of it is there, and as expected.
 */
bool burrow_peek_user(const struct burrow_user_word *words, unsigned int nr, unsigned long from,
		      u64 to[2]);

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
