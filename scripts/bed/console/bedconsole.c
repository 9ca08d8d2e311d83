// SPDX-License-Identifier: GPL-2.0
/*
 * The bed's console: a tty and a kernel console over the parallel port, which Bochs writes to a file byte
 * by byte, at once. The serial port keeps to its baud rate in emulated time: slow, and what is still in
 * its FIFO at power-off is lost.
 */
#include <linux/console.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/spinlock.h>
#include <linux/tty.h>
#include <linux/tty_driver.h>

#define DATA	0x378
#define CONTROL	0x37a
#define ONLINE	0x0c	/* initialized and selected */
#define STROBE	0x01

static DEFINE_RAW_SPINLOCK(port_lock);
static struct tty_port port;
static struct tty_driver *driver;

static void put(const u8 *buf, size_t count)
{
	unsigned long flags;
	size_t i;

	raw_spin_lock_irqsave(&port_lock, flags);
	for (i = 0; i < count; i++) {
		outb(buf[i], DATA);
		outb(ONLINE | STROBE, CONTROL);
		outb(ONLINE, CONTROL);
	}
	raw_spin_unlock_irqrestore(&port_lock, flags);
}

static int bed_open(struct tty_struct *tty, struct file *file)
{
	return tty_port_open(&port, tty, file);
}

static void bed_close(struct tty_struct *tty, struct file *file)
{
	tty_port_close(&port, tty, file);
}

static ssize_t bed_write(struct tty_struct *tty, const u8 *buf, size_t count)
{
	put(buf, count);
	return count;
}

static unsigned int bed_write_room(struct tty_struct *tty)
{
	return 4096;
}

static const struct tty_operations bed_ops = {
	.open = bed_open,
	.close = bed_close,
	.write = bed_write,
	.write_room = bed_write_room,
};

static const struct tty_port_operations port_ops = { };

static void console_put(struct console *console, const char *text, unsigned int count)
{
	put((const u8 *)text, count);
}

static struct tty_driver *console_tty(struct console *console, int *index)
{
	*index = 0;
	return driver;
}

static struct console console = {
	.name = "ttyB",
	.write = console_put,
	.device = console_tty,
	.flags = CON_ENABLED,
	.index = 0,
};

/* Writing a number here is an OUT to the port that bxcount.c watches. */
static int set_mark(const char *text, const struct kernel_param *param)
{
	u8 value;
	int ret = kstrtou8(text, 0, &value);

	if (!ret)
		outb(value, 0x8f);
	return ret;
}

static const struct kernel_param_ops mark_ops = { .set = set_mark };
module_param_cb(mark, &mark_ops, NULL, 0200);
MODULE_PARM_DESC(mark, "A mark for the counter of instructions; bit 0 turns it on and off");

static int __init bed_init(void)
{
	int ret;

	driver = tty_alloc_driver(1, TTY_DRIVER_RESET_TERMIOS | TTY_DRIVER_REAL_RAW);
	if (IS_ERR(driver))
		return PTR_ERR(driver);
	tty_port_init(&port);
	port.ops = &port_ops;
	driver->driver_name = "bedconsole";
	driver->name = "ttyB";
	driver->type = TTY_DRIVER_TYPE_CONSOLE;
	driver->init_termios = tty_std_termios;
	driver->init_termios.c_oflag = 0;
	tty_set_operations(driver, &bed_ops);
	tty_port_link_device(&port, driver, 0);
	ret = tty_register_driver(driver);
	if (ret) {
		tty_driver_kref_put(driver);
		tty_port_destroy(&port);
		return ret;
	}
	register_console(&console);
	return 0;
}
module_init(bed_init);

MODULE_DESCRIPTION("Console of Burrow's test bed");
MODULE_LICENSE("GPL");
