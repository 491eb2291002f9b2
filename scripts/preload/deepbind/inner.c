/* SPDX-License-Identifier: MIT */
/* An extension that is opened with RTLD_DEEPBIND: what it and the program allocate must be the same malloc's. */
#include <stdlib.h>
#include <string.h>

char *inner_exchange(char *given)
{
	free(given);
	return strdup("from the extension");
}
