/* SPDX-License-Identifier: MIT */
/*
 * Numbers of threads: a bit for each that is taken, and a key of POSIX threads whose destructor gives the number back. Must not allocate:
 * it is called from inside malloc, and before any constructor. The key is made with the heap's first use, so in libkmalloc.so it is one of
 * the process's first, for whose values each thread has room from the start.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <kmalloc_port.h>

/* libkmalloc.a must need nothing: in a program without these, numbers are not given back. */
#pragma weak pthread_key_create
#pragma weak pthread_setspecific

#define WORD_BITS 64
#define N_WORDS (KPORT_CPUS / WORD_BITS)
_Static_assert(KPORT_CPUS % WORD_BITS == 0, "no bits without a number");

/*
 * A thread that calls but a few times is not worth a cache. Besides, the C library frees something when a thread's destructors have run
 * already: were that the thread's first call, nobody would give its number back.
 */
#define CALLS_BEFORE_NUMBER 8

/* Values of the key: other destructors of the first round may use the heap still, so the number goes back in the second. */
#define FIRST_ROUND ((void *)1)
#define SECOND_ROUND ((void *)2)

enum key_state { KEY_MISSING, KEY_IN_THE_MAKING, KEY_READY, KEY_REFUSED };

static uint64_t taken[N_WORDS];
static pthread_key_t key;
static unsigned key_state;

_Thread_local unsigned kport_cpu_number = KPORT_CPUS;
void (*kport_cpu_leaving)(void);

static _Thread_local unsigned n_calls;
/* No number any more: it would never be given back. */
static _Thread_local bool has_ended;

static unsigned take_lowest(void)
{
	for (unsigned word = 0; word < N_WORDS; word++) {
		uint64_t bits = __atomic_load_n(&taken[word], __ATOMIC_RELAXED);

		/* Acquire: what the number's last owner left in its caches is seen. */
		while (~bits) {
			unsigned bit = (unsigned)__builtin_ctzll(~bits);

			if (__atomic_compare_exchange_n(&taken[word], &bits, bits | UINT64_C(1) << bit, false,
			                                __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
				return word * WORD_BITS + bit;
		}
	}
	return KPORT_CPUS;
}

static void thread_ends(void *round)
{
	unsigned number = kport_cpu_number;

	if (round == FIRST_ROUND && pthread_setspecific(key, SECOND_ROUND) == 0)
		return;
	has_ended = true;
	if (number == KPORT_CPUS)
		return;
	if (kport_cpu_leaving)
		kport_cpu_leaving();
	kport_cpu_number = KPORT_CPUS;
	__atomic_fetch_and(&taken[number / WORD_BITS], ~(UINT64_C(1) << number % WORD_BITS), __ATOMIC_RELEASE);
}

/* False while another thread makes the key, and when there are no keys left. */
static bool make_key(void)
{
	unsigned state = KEY_MISSING;

	if (__atomic_compare_exchange_n(&key_state, &state, KEY_IN_THE_MAKING, false, __ATOMIC_ACQUIRE,
	                                __ATOMIC_ACQUIRE)) {
		state = pthread_key_create(&key, thread_ends) == 0 ? KEY_READY : KEY_REFUSED;
		__atomic_store_n(&key_state, state, __ATOMIC_RELEASE);
	}
	return state == KEY_READY;
}

/* From now on this thread's end is noticed. */
static bool watch_end(void)
{
	if (!pthread_key_create || !pthread_setspecific)
		return true;
	return make_key() && pthread_setspecific(key, FIRST_ROUND) == 0;
}

unsigned kport_cpu_begin(void)
{
	if (kport_cpu_number != KPORT_CPUS || has_ended)
		return kport_cpu_number;
	/* Counted first: with a late key, setting its value allocates, and comes here again. */
	if (n_calls < CALLS_BEFORE_NUMBER) {
		if (n_calls++ == 0 && !watch_end())
			n_calls = 0;
		return KPORT_CPUS;
	}
	kport_cpu_number = take_lowest();
	return kport_cpu_number;
}
