/* SPDX-License-Identifier: MIT */
/*
 * The command: `kmalloc [command] [options]`, the menu when there is none. Same options and output as the UEFI
 * program; the exit status tells how it went.
 */
#include <stdio.h>

#include "../suite/suite.h"
#include "../ui/ui.h"
#include "linux_host.h"

/* The outcomes of a run are 0 passed, 1 failed, 2 stopped, 3 cannot run; this is sysexits' EX_USAGE. */
#define EXIT_WRONG_ARGUMENTS 64

static int wrong_arguments(const char *why)
{
	fprintf(stderr, "kmalloc: %s\n%s\n", why, suite_usage);
	return EXIT_WRONG_ARGUMENTS;
}

int main(int argc, char *argv[])
{
	static struct host host;
	struct suite_options options;
	enum suite_outcome outcome;
	char why[160];

	linux_host_begin(&host);
	suite_default_options(&options);
	if (!suite_parse(argc > 0 ? argc - 1 : 0, argv + 1, &options, why, sizeof(why)))
		return wrong_arguments(why);
	if (options.command != SUITE_MENU)
		outcome = suite_run(&host, &options);
	else if (linux_terminal_is_present())
		outcome = ui_menu(&host, linux_terminal(), &options);
	else
		return wrong_arguments("The menu needs a terminal; without one, give a command.");
	if (linux_pages_held() > 0 && suite_stress_kept() == NULL) {
		fprintf(stderr,
		        "kmalloc: %llu chunks of pages were not given back at the end; this is a fault of the "
		        "program.\n",
		        (unsigned long long)linux_pages_held());
		return SUITE_FAILED;
	}
	return (int)outcome;
}
