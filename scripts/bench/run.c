/* SPDX-License-Identifier: MIT */
/*
 * Run a program with its output thrown away, and print the processor time that it took, in milliseconds, and the peak of resident
 * memory of the largest of its processes, in KiB. A small program does this, because a process begins with its parent's peak.
 *
 *     run LIBRARY PROGRAM ARGUMENT...      LIBRARY is preloaded; - is none
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void run(char **argv)
{
	int nowhere = open("/dev/null", O_RDWR);

	if (nowhere < 0 || dup2(nowhere, STDIN_FILENO) < 0 || dup2(nowhere, STDOUT_FILENO) < 0 ||
	    (strcmp(argv[1], "-") != 0 && setenv("LD_PRELOAD", argv[1], 1) != 0))
		_exit(127);
	execvp(argv[2], argv + 2);
	_exit(127);
}

static double milliseconds(struct timeval time)
{
	return (double)time.tv_sec * 1e3 + (double)time.tv_usec / 1e3;
}

int main(int argc, char **argv)
{
	struct rusage usage;
	int status;
	pid_t child;

	if (argc < 3) {
		fprintf(stderr, "run: a library (or -), a program and its arguments\n");
		return 1;
	}
	child = fork();
	if (child == 0)
		run(argv);
	if (child < 0 || wait4(child, &status, 0, &usage) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "run: %s did not end well\n", argv[2]);
		return 1;
	}
	printf("%.3f %ld\n", milliseconds(usage.ru_utime) + milliseconds(usage.ru_stime), usage.ru_maxrss);
	return 0;
}
