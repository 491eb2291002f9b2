/* SPDX-License-Identifier: MIT */
/*
 * The menu and its screens. Draws text cells on a struct terminal, reads keys from the host; knows neither EFI nor
 * Linux.
 */
#ifndef UI_UI_H
#define UI_UI_H

#include "../suite/suite.h"
#include "terminal.h"

/*
 * Run the menu until the user quits. options are changed by the Settings screen. The outcome is that of the worst run
 * made (from bad to good: failed, cannot run, stopped, passed); SUITE_PASSED when there was none.
 */
enum suite_outcome ui_menu(struct host *host, struct terminal *terminal, struct suite_options *options);

#endif
