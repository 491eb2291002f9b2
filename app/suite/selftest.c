/* SPDX-License-Identifier: MIT */
/*
 * The runner of the self-test: goes through the groups, tells the observer, and cleans up after each case whatever
 * happened in it. Knows nothing of what is tested.
 */
#include "selftest.h"

static const struct test_group *const groups[] = {
	&group_text,          &group_contract,      &group_resize,     &group_reuse,   &group_regions,
	&group_growth,        &group_in_place,      &group_accounting, &group_pages,   &group_cache,
	&group_misuse,        &group_checker,       &group_waste,      &group_classic, &group_stress,
	&group_placement,     &group_damage,        &group_interrupts, &group_pairs,   &group_caches,
	&group_caches_shared, &group_caches_travel, &group_runs,       &group_large,
};

#define N_GROUPS (sizeof(groups) / sizeof(groups[0]))

static bool is_chosen(const struct test_group *group, const char *prefix)
{
	size_t i = 0;

	for (; prefix != NULL && prefix[i] != '\0'; i++) {
		char shortened[2] = { group->name[i], '\0' }, wanted[2] = { prefix[i], '\0' };

		if (text_compare_nocase(shortened, wanted) != 0)
			return false;
	}
	return true;
}

static unsigned count_cases(const char *prefix)
{
	unsigned n = 0;

	for (size_t i = 0; i < N_GROUPS; i++)
		n += is_chosen(groups[i], prefix) ? groups[i]->n_cases : 0;
	return n;
}

/*
 * Everything that the case took goes back; its heaps must be sound, and no misuse may have been reported that it
 * did not expect. A heap that failed is not entered again, because it may be broken; its pages are the arenas' and
 * go back with them.
 */
static void clean_up(struct test *t)
{
	t->source.enter = NULL;
	for (unsigned i = 0; i < t->n_heaps && t->state == CASE_PASSED && !t->is_damaged; i++)
		(void)test_sound(t, t->heaps[i], "the case");
	if (t->state == CASE_PASSED && !t->is_damaged)
		(void)test_expect_no_error(t);
	while (t->n_heaps > 0 && t->state == CASE_PASSED && !t->is_damaged)
		kheap_destroy(t->heaps[--t->n_heaps]);
	if (t->state == CASE_PASSED && t->source.n_wrong_puts > 0)
		test_fail(t, "the heap put back %u chunks that it had not been given", t->source.n_wrong_puts);
	if (t->state == CASE_PASSED && !t->is_damaged && t->source.n_given > 0)
		test_fail(t, "%u chunks were not put back when the heap was destroyed", t->source.n_given);
	while (t->n_chunks > 0)
		t->host->pages.put(t->host->pages.ctx, &t->chunks[--t->n_chunks]);
}

static void run_case(struct test *t, const struct test_case *test_case)
{
	/* Too large for a firmware's stack, so the runner has one and each case gets it empty. */
	struct host *host = t->host;
	const struct suite_options *options = t->options;

	*t = (struct test){ .host = host, .options = options };
	test_case->run(t);
	clean_up(t);
}

static void count(struct selftest_result *result, const struct case_report *report, bool is_starved)
{
	if (report->state == CASE_PASSED)
		result->n_passed++;
	if (report->state == CASE_SKIPPED)
		result->n_skipped++;
	if (report->state == CASE_SKIPPED && is_starved)
		result->n_starved++;
	if (report->state != CASE_FAILED)
		return;
	if (result->n_failed++ == 0)
		text_format(result->first_failure, sizeof(result->first_failure), "%s: %s: %s", report->group,
		            report->name, report->detail);
}

static bool run_group(struct test *t, const struct test_group *group, struct observer *observer,
                      struct case_report *report, struct selftest_result *result)
{
	for (unsigned i = 0; i < group->n_cases; i++) {
		report->group = group->name;
		report->name = group->cases[i].name;
		report->detail = "";
		report->state = CASE_PASSED;
		report->index++;
		if (observer->case_start(observer->ctx, report) == SUITE_STOP)
			return false;
		t->host->alive(t->host, false);
		run_case(t, &group->cases[i]);
		report->detail = t->detail;
		report->state = t->state;
		count(result, report, t->is_starved);
		observer->case_end(observer->ctx, report);
	}
	return true;
}

static void refuse_group(struct selftest_result *result, const char *prefix)
{
	char *text = result->first_failure;
	size_t size = sizeof(result->first_failure);
	size_t n = (size_t)text_format(text, size, "No group's name begins with '%.20s'. There are", prefix);

	for (size_t i = 0; i < N_GROUPS && n < size; i++)
		n += (size_t)text_format(text + n, size - n, " %s%s", groups[i]->name, i + 1 < N_GROUPS ? "," : ".");
}

/* A run in which nothing could be tried, or little for want of memory, has proved nothing. */
static void judge(struct selftest_result *result, const struct case_report *last)
{
	if (result->outcome != SUITE_PASSED || (result->n_passed > 0 && result->n_starved <= result->n_passed))
		return;
	result->outcome = SUITE_CANNOT_RUN;
	if (result->n_passed == 0)
		text_format(result->first_failure, sizeof(result->first_failure),
		            "None of %u cases can run here. The last: %s.", result->n_skipped, last->detail);
	else
		text_format(result->first_failure, sizeof(result->first_failure),
		            "Only %u of %u cases could run, and %u lacked memory; this proves nothing.",
		            result->n_passed, result->n_passed + result->n_skipped, result->n_starved);
}

void suite_selftest(struct host *host, const struct suite_options *options, struct observer *observer,
                    struct selftest_result *result)
{
	static struct test t;
	struct case_report report = { .n_cases = count_cases(options->group) };
	bool is_stopped = false;

	*result = (struct selftest_result){ .outcome = SUITE_CANNOT_RUN };
	if (report.n_cases == 0) {
		refuse_group(result, options->group);
		return;
	}
	t.host = host;
	t.options = options;
	for (size_t i = 0; i < N_GROUPS && !is_stopped; i++)
		if (is_chosen(groups[i], options->group))
			is_stopped = !run_group(&t, groups[i], observer, &report, result);
	result->outcome = result->n_failed > 0 ? SUITE_FAILED : is_stopped ? SUITE_STOPPED : SUITE_PASSED;
	judge(result, &report);
}
