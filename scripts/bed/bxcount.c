// SPDX-License-Identifier: GPL-2.0
/*
 * What a VM exit costs, counted from outside: a library to preload into Debian's bochs.
 *
 * That binary is built with instrumentation whose callbacks are empty, and exports them. Four of them are
 * redirected here as the library is loaded. $BXCOUNT_OUT gets one line per VM exit while counting is on:
 *
 *	exit CPU REASON QUALIFICATION instructions=N vmread=N ...
 *
 * with what that CPU executed since its last VM exit (operations that did not occur are left out), a line
 * "mark VALUE instructions=N" for each OUT to port 0x8f, whose bit 0 turns counting on and off, and the
 * totals at the end. In the bed, /sys/module/bedconsole/parameters/mark does that OUT.
 *
 * With $BXCOUNT_PROFILE set, before the mark that turns counting off come lines "rip ADDRESS COUNT": how often
 * each instruction was executed while it was on, by the first CPU.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MARK_PORT	0x8f
#define MAX_CPUS	64

enum op {
	OTHER, VMREAD, VMWRITE, VMPTRLD, VMPTRST, VMCLEAR, VMLAUNCH, VMRESUME, INVEPT, INVVPID,
	RDMSR, WRMSR, NR_OPS
};

static const char * const op_name[NR_OPS] = {
	"", "vmread", "vmwrite", "vmptrld", "vmptrst", "vmclear", "vmlaunch", "vmresume", "invept",
	"invvpid", "rdmsr", "wrmsr"
};

struct counts {
	uint64_t instructions;
	uint64_t ops[NR_OPS];
};

static struct counts since_exit[MAX_CPUS], total;
static uint64_t exits[256];
static bool counting;
static FILE *out;

/* The profile: a hash table by address, without deletion; what does not fit is left out. */
#define PROFILE_SIZE	(1u << 18)
static struct { uint64_t rip, count; } *profile;
static uint64_t (*get_rip)(void);

/* Operation of each of Bochs' opcode numbers, learnt as the instructions are decoded. */
static uint8_t op_of[UINT16_MAX + 1];

/*
 * Where Bochs' decoded instruction holds its opcode number (16 bits, the instruction's length in the byte
 * after them): not in any header of the package, so found by watching where the length is.
 */
#define LAST_OFFSET	64
#define CERTAIN		256
static uint32_t hits[LAST_OFFSET];
static uint32_t decoded;
static int opcode_at = -1;

static void find_opcode_field(const uint8_t *insn, unsigned int len)
{
	int best = 8;

	decoded++;
	for (int at = 8; at < LAST_OFFSET; at += 2) {
		hits[at] += (insn[at + 2] & 0xf) == len;
		if (hits[at] > hits[best])
			best = at;
	}
	if (decoded == CERTAIN && hits[best] == decoded)
		opcode_at = best;
	else if (decoded == CERTAIN)
		fprintf(stderr, "bxcount: this Bochs is laid out otherwise: no counts of operations\n");
}

static bool is_prefix(uint8_t byte, bool is64)
{
	if (is64 && (byte & 0xf0) == 0x40)
		return true;
	return byte && strchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3", byte);
}

/* SDM volume 2: the VMX instructions, RDMSR and WRMSR; all of them are in the 0F map. */
static enum op decode(const uint8_t *code, unsigned int len, bool is64)
{
	bool p66 = false, rep = false;
	unsigned int n = 0;
	uint8_t modrm, reg;

	for (; n < len && is_prefix(code[n], is64); n++) {
		p66 |= code[n] == 0x66;
		rep |= code[n] == 0xf2 || code[n] == 0xf3;
	}
	if (n + 1 >= len || code[n] != 0x0f)
		return OTHER;
	modrm = n + 2 < len ? code[n + 2] : 0;
	reg = (modrm >> 3) & 7;
	switch (code[n + 1]) {
	case 0x01:
		return modrm == 0xc2 ? VMLAUNCH : modrm == 0xc3 ? VMRESUME : OTHER;
	case 0x30:
		return WRMSR;
	case 0x32:
		return RDMSR;
	case 0x38:
		return !p66 ? OTHER : modrm == 0x80 ? INVEPT : modrm == 0x81 ? INVVPID : OTHER;
	case 0x78:
		return p66 || rep ? OTHER : VMREAD;
	case 0x79:
		return p66 || rep ? OTHER : VMWRITE;
	case 0xc7:
		if (modrm >> 6 == 3 || rep)
			return OTHER;
		return reg == 6 ? (p66 ? VMCLEAR : VMPTRLD) : reg == 7 ? VMPTRST : OTHER;
	}
	return OTHER;
}

static uint16_t opcode_number(const uint8_t *insn)
{
	uint16_t number;

	memcpy(&number, insn + opcode_at, sizeof(number));
	return number;
}

static void on_decode(unsigned int cpu, uint8_t *insn, const uint8_t *code, unsigned int len, bool is32,
		      bool is64)
{
	if (decoded < CERTAIN)
		find_opcode_field(insn, len);
	if (opcode_at >= 0)
		op_of[opcode_number(insn)] = decode(code, len, is64);
}

static void note_rip(uint64_t rip)
{
	uint32_t start = (rip * 0x9e3779b97f4a7c15ull) >> 40;

	for (uint32_t n = 0; n < 64; n++) {
		uint32_t at = (start + n) % PROFILE_SIZE;

		if (!profile[at].count)
			profile[at].rip = rip;
		if (profile[at].rip == rip) {
			profile[at].count++;
			return;
		}
	}
}

static void print_profile(void)
{
	for (uint32_t at = 0; at < PROFILE_SIZE; at++)
		if (profile[at].count)
			fprintf(out, "rip %" PRIx64 " %" PRIu64 "\n", profile[at].rip, profile[at].count);
	memset(profile, 0, PROFILE_SIZE * sizeof(*profile));
}

static void on_execute(unsigned int cpu, uint8_t *insn)
{
	struct counts *c = &since_exit[cpu % MAX_CPUS];

	if (counting && profile && cpu == 0)
		note_rip(get_rip());

	c->instructions++;
	total.instructions++;
	if (opcode_at >= 0) {
		enum op op = op_of[opcode_number(insn)];

		if (__builtin_expect(op != OTHER, 0)) {
			c->ops[op]++;
			total.ops[op]++;
		}
	}
}

static void print_counts(const struct counts *c)
{
	fprintf(out, " instructions=%" PRIu64, c->instructions);
	for (int op = OTHER + 1; op < NR_OPS; op++)
		if (c->ops[op])
			fprintf(out, " %s=%" PRIu64, op_name[op], c->ops[op]);
	fputc('\n', out);
}

static void on_vmexit(unsigned int cpu, uint32_t reason, uint64_t qualification)
{
	struct counts *c = &since_exit[cpu % MAX_CPUS];

	exits[reason & 0xff]++;
	if (counting) {
		fprintf(out, "exit %u %u %" PRIx64, cpu, reason & 0xffff, qualification);
		print_counts(c);
	}
	memset(c, 0, sizeof(*c));
}

static void on_out(uint16_t port, unsigned int len, unsigned int value)
{
	if (port != MARK_PORT)
		return;
	if (counting && profile)
		print_profile();
	counting = value & 1;
	fprintf(out, "mark %u instructions=%" PRIu64 "\n", value, total.instructions);
}

/* Make the exported function `name` a jump to `to`: jmp [rip+0] and the address behind it. */
static void redirect(const char *name, void *to)
{
	uint8_t jump[14] = { 0xff, 0x25 };
	uint8_t *from = dlsym(RTLD_DEFAULT, name);
	void *page = (void *)((uintptr_t)from & ~0xffful);

	if (!from || mprotect(page, 0x2000, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		fprintf(stderr, "bxcount: cannot redirect %s\n", name);
		exit(1);
	}
	memcpy(jump + 6, &to, sizeof(to));
	memcpy(from, jump, sizeof(jump));
	mprotect(page, 0x2000, PROT_READ | PROT_EXEC);
}

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("BXCOUNT_OUT");

	/* The library is preloaded into the shell that starts Bochs, too. */
	if (!path || !dlsym(RTLD_DEFAULT, "_Z15bx_instr_vmexitjjm"))
		return;
	out = fopen(path, "w");
	if (!out) {
		perror(path);
		exit(1);
	}
	get_rip = (uint64_t (*)(void))dlsym(RTLD_DEFAULT, "_Z14bx_dbg_get_ripv");
	if (getenv("BXCOUNT_PROFILE") && get_rip)
		profile = calloc(PROFILE_SIZE, sizeof(*profile));
	redirect("_Z15bx_instr_opcodejP15bxInstruction_cPKhjbb", on_decode);
	redirect("_Z25bx_instr_before_executionjP15bxInstruction_c", on_execute);
	redirect("_Z15bx_instr_vmexitjjm", on_vmexit);
	redirect("_Z13bx_instr_outptjj", on_out);
}

__attribute__((destructor)) static void end(void)
{
	if (!out)
		return;
	fprintf(out, "total");
	print_counts(&total);
	for (int reason = 0; reason < 256; reason++)
		if (exits[reason])
			fprintf(out, "exits %d %" PRIu64 "\n", reason, exits[reason]);
	fclose(out);
}
