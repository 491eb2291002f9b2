/* SPDX-License-Identifier: MIT */
/* malloc in a process: fork among threads, limits, the time before main and after it. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)

static void allocate_in_handler(void)
{
	free(malloc(500));
}

static bool stop_churning;

static void *churn_thread(void *seed)
{
	for (uint64_t n = 0; !__atomic_load_n(&stop_churning, __ATOMIC_RELAXED); n++)
		churn((uintptr_t)seed + n, 2000);
	return NULL;
}

/* Alone now, but with what the parent's threads left: allocate and free much, in a thread of its own too, and fork again. */
_Noreturn static void child_of_threads(unsigned index, void *kept)
{
	pthread_t thread;
	void *object;
	int status;

	alarm(20);
	free(kept);
	churn(index + 99, 10000);
	CHECK(pthread_create(&thread, NULL, short_thread, (void *)7) == 0 && pthread_join(thread, &object) == 0);
	free(object);
	if (index % 10 == 0) {
		pid_t grandchild = fork();

		if (grandchild == 0) {
			churn(index, 2000);
			_exit(0);
		}
		CHECK(waitpid(grandchild, &status, 0) == grandchild && status == 0);
	}
	_exit(0);
}

/* The child of a process whose other threads are inside malloc can allocate, and free what the parent allocated. */
void probe_fork_in_threads(void)
{
	enum { THREADS = 4, FORKS = 60 };
	pthread_t threads[THREADS];
	void *kept = malloc(5000);

	CHECK(pthread_atfork(allocate_in_handler, allocate_in_handler, allocate_in_handler) == 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, churn_thread, (void *)(i + 1)) == 0);
	for (unsigned i = 0; i < FORKS; i++) {
		pid_t child = fork();
		int status;

		CHECK(child >= 0);
		if (child == 0)
			child_of_threads(i, kept);
		churn(i, 2000);
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	__atomic_store_n(&stop_churning, true, __ATOMIC_RELAXED);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	free(kept);
}

static void *grow_and_trim_thread(void *unused)
{
	enum { OBJECTS = 150, SIZE = 30000 };
	void *objects[OBJECTS];

	while (!__atomic_load_n(&stop_churning, __ATOMIC_RELAXED)) {
		for (int i = 0; i < OBJECTS; i++)
			objects[i] = malloc(SIZE);
		for (int i = 0; i < OBJECTS; i++)
			free(objects[i]);
		malloc_trim(0);
	}
	return unused;
}

/* Of 15 MB, how much lies in none of the memory that was reserved at first? */
static unsigned n_far_objects(uintptr_t first)
{
	enum { OBJECTS = 2500, SIZE = 6000 };
	unsigned n = 0;

	for (int i = 0; i < OBJECTS; i++)
		n += (uintptr_t)malloc(SIZE) - first >= (size_t)1 << 30;
	return n;
}

/* The child of a process whose other thread was getting pages, or giving some back, goes on where its heap is. */
void probe_fork_in_growth(void)
{
	enum { FORKS = 40 };
	uintptr_t first = (uintptr_t)malloc(100) & ~(MIB - 1);
	pthread_t thread;

	/* The hardened library reserves nothing. */
	if (getenv("PROBE_HARDENED"))
		return;
	CHECK(pthread_create(&thread, NULL, grow_and_trim_thread, NULL) == 0);
	for (unsigned i = 0; i < FORKS; i++) {
		int status;

		usleep(100 + i * 37 % 900);
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0)
			_exit(n_far_objects(first) != 0);
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	__atomic_store_n(&stop_churning, true, __ATOMIC_RELAXED);
	CHECK(pthread_join(thread, NULL) == 0);
}

/* ---- limits, start and end --------------------------------------------------------------------------------------- */

/* The largest object that there is memory for, nearly. */
static size_t largest_object(size_t most)
{
	size_t least = 0;

	while (most - least > MIB / 4) {
		size_t middle = least + (most - least) / 2;
		void *object = malloc(middle);

		free(object);
		*(object ? &least : &most) = middle;
	}
	return least;
}

/*
 * With a limit of address space malloc fails in good order, and works again after frees, with all that can be given back; others can map what
 * they need.
 */
void probe_address_limit(void)
{
	enum { SIZE = 1000 };
	const size_t most = 96 * MIB;
	struct rlimit old, limit;
	void **chain = NULL;
	pthread_t thread;
	void *object;
	size_t n = 0;

	CHECK(getrlimit(RLIMIT_AS, &old) == 0);
	limit = old;
	limit.rlim_cur = most;
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
	CHECK(pthread_create(&thread, NULL, short_thread, (void *)7) == 0 && pthread_join(thread, &object) == 0);
	free(object);
	for (;;) {
		void **object = (errno = 0, malloc(SIZE));

		if (!object)
			break;
		*object = chain;
		chain = object;
		n++;
	}
	CHECK(errno == ENOMEM && n * SIZE > most / 2 && n * SIZE < most);
	while (chain) {
		void **next = *chain;

		free(chain);
		chain = next;
	}
	n = largest_object(most);
	CHECK(n > most / 2);
	malloc_trim(0);
	CHECK(largest_object(most) < n + MIB);
	CHECK(setrlimit(RLIMIT_AS, &old) == 0);
}

/* Locked memory cannot be discarded, but calloc gives zeros all the same. */
void probe_locked(void)
{
	/* Not everybody may. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
		return;
	for (int i = 0; i < 3; i++) {
		unsigned char *object = malloc(1 << 20);

		memset(object, 0xff, 1 << 20);
		free(object);
		object = calloc(1, 1 << 20);
		CHECK(object && is_filled(object, 0, 1 << 20));
		free(object);
	}
	CHECK(munlockall() == 0);
	/* A page of it that stays when free memory goes back keeps its bytes, which are no zeros. */
	for (int i = 0; i < 3; i++) {
		size_t size = (size_t)300 << 10;
		unsigned char *object = memset(malloc(size), 0xff, size),
			      *page = object + size / 2 - (uintptr_t)object % 4096;

		CHECK(malloc(size));
		if (mlock(page, 4096) != 0)
			return;
		free(object);
		malloc_trim(0);
		object = calloc(1, size);
		CHECK(object && is_filled(object, 0, size));
		free(object);
		CHECK(munlock(page, 4096) == 0);
	}
}

/* From now on this process dies of any system call but those that a sandbox has to allow for the C library's malloc. */
static bool enter_sandbox(void)
{
	static const int allowed[] = { SYS_brk,           SYS_mmap,      SYS_munmap, SYS_mremap,
		                       SYS_mprotect,      SYS_madvise,   SYS_futex,  SYS_write,
		                       SYS_clock_gettime, SYS_getrandom, SYS_exit,   SYS_exit_group };
	enum { N = sizeof(allowed) / sizeof(allowed[0]) };
	struct sock_filter filter[N + 3];
	struct sock_fprog program = { N + 3, filter };

	filter[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < N; i++)
		filter[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed[i],
		                                             (uint8_t)(N - i), 0);
	filter[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	filter[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void work_in_sandbox(void)
{
	char *grown = NULL;

	for (size_t size = 16; size < (size_t)48 << 20; size += size / 8) {
		char *object = malloc(size), *zeroed = calloc(1, size);

		grown = realloc(grown, size);
		if (!object || !grown || !is_filled((unsigned char *)zeroed, 0, size))
			_exit(1);
		memset(object, 1, size);
		memset(zeroed, 1, size);
		grown[size - 1] = 1;
		free(object);
		free(zeroed);
	}
	free(grown);
	churn(5, 20000);
	malloc_trim(0);
	_exit(0);
}

/* No other system calls than the C library's malloc makes: sandboxes do not know of them. */
void probe_sandbox(void)
{
	enum { NO_SANDBOX = 77 };
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (child == 0) {
		if (!enter_sandbox())
			_exit(NO_SANDBOX);
		work_in_sandbox();
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == NO_SANDBOX));
}

static bool is_resident(const char *address)
{
	unsigned char resident = 0;

	return mincore((void *)((uintptr_t)address & ~(uintptr_t)(PAGE - 1)), 1, &resident) == 0 && resident & 1;
}

/* Pages come before they are needed, but not many, and none of a large object. */
void probe_ahead(void)
{
	enum { N_OBJECTS = 4000, SIZE = 3000, LARGE = 4 << 20 };
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t before = resident_bytes();
	int n_ahead = 0;

	CHECK(page != MAP_FAILED);
	/* The kernel may be too old. */
	if (madvise(page, PAGE, MADV_POPULATE_WRITE) != 0)
		return;
	for (int i = 0; i < N_OBJECTS; i++) {
		char *object = malloc(SIZE);

		CHECK(object);
		n_ahead += is_resident(object + SIZE + 2 * PAGE);
	}
	CHECK(n_ahead > N_OBJECTS / 2);
	CHECK(resident_bytes() < before + (size_t)N_OBJECTS * SIZE / 8 * 9 + MIB / 2);
	char *large = malloc(LARGE);

	CHECK(large && (getenv("PROBE_HARDENED") || !is_resident(large + LARGE / 2)));
	free(large);
}

static void *early_object;

__attribute__((constructor)) static void at_start(void)
{
	early_object = malloc(333);
	memset(early_object, 9, 333);
}

__attribute__((destructor)) static void at_end(void)
{
	free(early_object);
	free(malloc(1234));
}

void probe_start_and_end(void)
{
	CHECK(is_filled(early_object, 9, 333));
	/* Its destructors run after main has returned; the exit status of the whole run tells. */
}
