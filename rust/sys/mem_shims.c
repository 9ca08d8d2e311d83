// SPDX-License-Identifier: GPL-2.0
/*
 * Inline functions of the memory management that Rust cannot call. See mem_shims.h.
 */
#include <linux/irqflags.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <linux/swap.h>
#include <linux/uaccess.h>
#include <asm/e820/api.h>
#include <asm/memtype.h>

#include "mem_shims.h"

void burrow_release_page(struct page *page, bool dirty)
{
	/* Nobody reclaims or writes back a reserved page, such as the shared page of zeroes. */
	if (!PageReserved(page)) {
		if (dirty)
			SetPageDirty(page);
		mark_page_accessed(page);
	}
	put_page(page);
}

void burrow_put_page(struct page *page)
{
	put_page(page);
}

/* Each entry is read once, as it may turn from a table into a huge page meanwhile. */
static int host_level(struct mm_struct *mm, unsigned long hva)
{
	pgd_t pgd = READ_ONCE(*pgd_offset(mm, hva));
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	if (pgd_none(pgd))
		return 1;
	p4d = READ_ONCE(*p4d_offset(&pgd, hva));
	if (p4d_none(p4d) || !p4d_present(p4d))
		return 1;
	pud = READ_ONCE(*pud_offset(&p4d, hva));
	if (pud_none(pud) || !pud_present(pud))
		return 1;
	if (pud_leaf(pud))
		return 3;
	pmd = READ_ONCE(*pmd_offset(&pud, hva));
	if (pmd_none(pmd) || !pmd_present(pmd))
		return 1;
	return pmd_leaf(pmd) ? 2 : 1;
}

int burrow_host_level(unsigned long hva)
{
	unsigned long flags;
	int level;

	if (!current->mm || hva >= TASK_SIZE_MAX)
		return 1;
	/* Tables are freed only after an interrupt, or an RCU grace period, reached every CPU. */
	local_irq_save(flags);
	level = host_level(current->mm, hva);
	local_irq_restore(flags);
	return level;
}

/* With the mmap_lock held; -EAGAIN where it was let go meanwhile, so that the mapping may be another. */
static int remapped_frame(struct mm_struct *mm, struct follow_pfnmap_args *args, bool is_write)
{
	bool was_unlocked = false, was_faulted = false;
	int err;

	args->vma = vma_lookup(mm, args->address);
	if (!args->vma || !(args->vma->vm_flags & (VM_IO | VM_PFNMAP)))
		return -EFAULT;
	for (;;) {
		err = follow_pfnmap_start(args);
		if (!err && (args->writable || !is_write))
			return 0;
		if (!err)
			follow_pfnmap_end(args);
		if (was_faulted)
			return -EFAULT;
		was_faulted = true;
		err = fixup_user_fault(mm, args->address, is_write ? FAULT_FLAG_WRITE : 0, &was_unlocked);
		if (was_unlocked)
			return -EAGAIN;
		if (err)
			return -EFAULT;
	}
}

int burrow_remapped_frame(unsigned long hva, bool is_write, u64 *pfn, bool *is_writable)
{
	struct follow_pfnmap_args args = { .address = hva };
	struct mm_struct *mm = current->mm;
	int err;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	do {
		err = fatal_signal_pending(current) ? -EINTR : remapped_frame(mm, &args, is_write);
	} while (err == -EAGAIN);
	if (!err) {
		*pfn = args.pfn;
		*is_writable = args.writable;
		follow_pfnmap_end(&args);
	}
	mmap_read_unlock(mm);
	return err;
}

bool burrow_is_device_frame(u64 pfn)
{
	if (!pfn_valid(pfn))
		return !e820__mapped_raw_any(PFN_PHYS(pfn), PFN_PHYS(pfn + 1) - 1, E820_TYPE_RAM);
	if (is_zero_pfn(pfn) || !PageReserved(pfn_to_page(pfn)))
		return false;
	/* Persistent memory is reserved, too, but cached. */
	return !pat_enabled() || pat_pfn_immune_to_uc_mtrr(pfn);
}

int burrow_read_user(unsigned long hva, unsigned int size, u64 *to)
{
	u32 word;
	int err;

	if (size == sizeof(*to))
		return get_user(*to, (u64 __user *)hva);
	err = get_user(word, (u32 __user *)hva);
	*to = word;
	return err;
}

bool burrow_peek_user(const struct burrow_user_word *words, unsigned int nr, unsigned long from,
		      u64 to[2])
{
	const u64 __user *at = (const u64 __user *)from;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		if (!access_ok((const void __user *)words[i].hva, sizeof(u64)))
			return false;
	}
	pagefault_disable();
	/* It is the barrier for the checks above, too. */
	if (!user_read_access_begin(at, 2 * sizeof(u64)))
		goto out;
	for (i = 0; i < nr; i++) {
		u64 word;

		unsafe_get_user(word, (const u64 __user *)words[i].hva, fault);
		if (word != words[i].value)
			goto fault;
	}
	unsafe_get_user(to[0], at, fault);
	unsafe_get_user(to[1], at + 1, fault);
	user_read_access_end();
	pagefault_enable();
	return true;

fault:
	user_read_access_end();
out:
	pagefault_enable();
	return false;
}

#define CMPXCHG_CASE(type)						\
	case sizeof(type): {						\
		type found = *old;					\
		type __user *at = (type __user *)hva;			\
									\
		if (!user_access_begin(at, sizeof(type)))		\
			return -EFAULT;					\
		done = unsafe_try_cmpxchg_user(at, &found, (type)new, fault); \
		user_access_end();					\
		*old = found;						\
		return !done;						\
	}

int burrow_cmpxchg_user(unsigned long hva, unsigned int size, u64 *old, u64 new)
{
	bool done;

	switch (size) {
	CMPXCHG_CASE(u8)
	CMPXCHG_CASE(u16)
	CMPXCHG_CASE(u32)
	CMPXCHG_CASE(u64)
	default:
		return -EINVAL;
	}
fault:
	user_access_end();
	return -EFAULT;
}

u64 burrow_task_size(void)
{
	return TASK_SIZE_MAX;
}
