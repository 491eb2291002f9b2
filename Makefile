# SPDX-License-Identifier: MIT
#
# Builds the heap, its UEFI program and its Linux command, all under build/. `make help` lists what can be made.
#
#   make V=1            show the commands
#   make CC=clang       another compiler (everything is made again: the flags are remembered)
#   make BUILD=elsewhere
#
# Every source file in a folder is compiled, so there is no list of files here. Each variant of a program has its own
# folder of objects, and a `flags` file in it: when compiler or flags change, that variant is made again.

CC     := $(if $(filter default,$(origin CC)),gcc,$(CC))
LD     := ld
OBJCOPY ?= objcopy
AR     := $(if $(filter default,$(origin AR)),ar,$(AR))
PYTHON ?= /usr/bin/python3 -B
BUILD  ?= build
CFLAGS ?= -O2 -g

# Debian's gnu-efi.
EFI_INCLUDE ?= /usr/include/efi
EFI_LIBRARY ?= /usr/lib

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:

Q := $(if $(filter 1,$(V)),,@)
say = @$(if $(filter 1,$(V)),:,printf '  %-6s %s\n' '$(1)' '$(2)')

# `make setup all` in one command, also with -j: whatever is built waits for setup when setup was asked for too.
SETUP := $(filter setup,$(MAKECMDGOALS))

# ---------------------------------------------------------------------------------------------------------------
# Flags
# ---------------------------------------------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Werror
COMMON    = -std=gnu17 $(WARNINGS) -Iinclude -MMD -MP -ffile-prefix-map=$(CURDIR)=.

# A compiler may turn loops into calls of memset and memcpy; the heap must stand without them.
NO_LIBCALLS := -fno-builtin $(if $(findstring clang,$(CC)),,-fno-tree-loop-distribute-patterns)
# Padding in front of loops and jumps would be a thirtieth of the heap.
SMALL_CODE  := $(if $(findstring clang,$(CC)),,-fno-align-loops -fno-align-jumps)
# Firmware interrupts may come at any time and the heap may be called where the FPU belongs to somebody else.
FREESTANDING := -ffreestanding -mgeneral-regs-only -fno-stack-protector

UEFI := -fPIE -fshort-wchar -mno-red-zone -fno-asynchronous-unwind-tables -fno-ident \
        $(if $(findstring clang,$(CC)),,-maccumulate-outgoing-args)

# The heap's lock and its CPU's number, for the firmware.
UEFI += -DKMALLOC_PORT_HEADER='"../app/efi/port.h"'

# What each variant adds.
FLAGS_release  :=
FLAGS_hardened := -DKMALLOC_HARDENED=1
FLAGS_check    := -DKMALLOC_CHECK=1
# The check build with CPU caches, which canaries and poison would leave unused.
FLAGS_caches   := -DKMALLOC_CHECK=1 -DKMALLOC_HARDENED=0
# It does not know fences, of which there is one, in front of stores that it knows.
FLAGS_tsan     := -fsanitize=thread -Wno-tsan
FLAGS_asan     := -DKMALLOC_CHECK=1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

# What each folder of app/ adds, on either host.
FOLDER_heap    := $(FREESTANDING) $(NO_LIBCALLS) $(SMALL_CODE)
FOLDER_classic := $(FREESTANDING) $(NO_LIBCALLS)
FOLDER_suite   := $(FREESTANDING)
FOLDER_ui      := $(FREESTANDING)
FOLDER_linux   := -pthread
# Inside the heap, so as strict as it.
FOLDER_linux/port := $(FREESTANDING) $(NO_LIBCALLS) $(SMALL_CODE)
FOLDER_efi     := $(FREESTANDING) -DGNU_EFI_USE_MS_ABI -isystem $(EFI_INCLUDE) -isystem $(EFI_INCLUDE)/x86_64

SHARED_FOLDERS := heap classic suite ui

# $(call objects,<variant folder>,<folders of app/>)
objects = $(foreach folder,$(2),$(patsubst app/%.c,$(BUILD)/$(1)/%.o,$(wildcard app/$(folder)/*.c) \
                                  $(filter-out $(LIBRARY_FOLDERS:%=app/%/%),$(wildcard app/$(folder)/*/*.c))))
# Folders of libraries, which are no part of the program whose folder they lie in.
LIBRARY_FOLDERS := linux/port linux/preload linux/record

# The revision that the program tells. Only the sources that ask for it are made again when it changes.
ifndef BUILD_ID
BUILD_ID := $(shell git describe --always --dirty 2>/dev/null)
endif
build_id_flag = $(if $(filter $(BUILD_ID_USERS),$(1)),-DKMALLOC_BUILD_ID='"$(BUILD_ID)"')
BUILD_ID_USERS := $(shell grep -ls KMALLOC_BUILD_ID app/*/*.c)

# A file that changes only when the text in $(1) does.
remember = @mkdir -p $(@D); printf '%s\n' '$(1)' | cmp -s - $@ || printf '%s\n' '$(1)' > $@

$(BUILD)/build-id: FORCE
	$(call remember,$(BUILD_ID))

# ---------------------------------------------------------------------------------------------------------------
# Linux: build/linux/<variant>/kmalloc and libkmalloc.a
# ---------------------------------------------------------------------------------------------------------------

LINUX_VARIANTS := release hardened check caches asan tsan
LINUX_FOLDERS  := $(SHARED_FOLDERS) linux linux/port
LINUX_PORT     := -DKMALLOC_PORT_HEADER='"../app/linux/port/port.h"'

# $(call linux_compile,<variant>,<folder>)
define linux_compile
$(BUILD)/linux/$(1)/$(2)/%.o: app/$(2)/%.c $(BUILD)/linux/$(1)/flags
	$$(call say,CC,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(COMMON) -fPIE $$(LINUX_PORT) $$(FOLDER_$(2)) $$(CFLAGS) $$(FLAGS_$(1)) $$(call build_id_flag,$$<) -c -o $$@ $$<
endef

# The library is one object, in which the heap's inner names (those of hidden visibility) are local: a user's program
# may have functions of the same names.
# $(call linux_variant,<variant>)
define linux_variant
$(foreach user,$(BUILD_ID_USERS),$(eval $(BUILD)/linux/$(1)/$(user:app/%.c=%.o): $(BUILD)/build-id))
$(foreach folder,$(LINUX_FOLDERS),$(eval $(call linux_compile,$(1),$(folder))))

$(BUILD)/linux/$(1)/flags: FORCE | $(SETUP)
	$$(call remember,$$(CC) $$(COMMON) $$(subst ',,$$(LINUX_PORT)) $$(CFLAGS) $$(FLAGS_$(1)) \
	                 $(foreach f,$(LINUX_FOLDERS),$$(FOLDER_$(f))))

$(BUILD)/linux/$(1)/sources: FORCE | $(SETUP)
	$$(call remember,$$(call objects,linux/$(1),$(LINUX_FOLDERS)))

$(BUILD)/linux/$(1)/libkmalloc.a: $(call objects,linux/$(1),heap linux/port) $(BUILD)/linux/$(1)/sources
	$$(call say,AR,$$@)
	@rm -f $$@
	$$(Q)$$(LD) -r -o $$(@D)/whole.o $$(filter %.o,$$^) && $$(OBJCOPY) --localize-hidden $$(@D)/whole.o
	$$(Q)$$(AR) rcsD $$@ $$(@D)/whole.o

$(BUILD)/linux/$(1)/kmalloc: $(call objects,linux/$(1),classic suite ui linux) $(BUILD)/linux/$(1)/libkmalloc.a \
                             $(BUILD)/linux/$(1)/sources
	$$(call say,LD,$$@)
	$$(Q)$$(CC) -pie -pthread $$(CFLAGS) $$(FLAGS_$(1)) -o $$@ $$(filter %.o,$$^) $$(filter %.a,$$^)
endef
$(foreach variant,$(LINUX_VARIANTS),$(eval $(call linux_variant,$(variant))))

# The plain names are those of the release variant.
$(BUILD)/linux/kmalloc $(BUILD)/linux/libkmalloc.a: $(BUILD)/linux/%: $(BUILD)/linux/release/%
	$(Q)cp -f $< $@

LINUX_PROGRAMS := $(LINUX_VARIANTS:%=$(BUILD)/linux/%/kmalloc)

# The recorder of traces: preloaded into other programs, so it shows nothing but malloc and its like.
RECORDER := $(BUILD)/linux/libkmalloc-record.so
RECORDER_FLAGS = $(COMMON) -fPIC -fvisibility=hidden -fno-builtin $(CFLAGS)

$(RECORDER): $(wildcard app/linux/record/*.c app/linux/record/*.h) app/suite/trace.h Makefile | $(SETUP)
	$(call say,SO,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -MMD -MP,$(RECORDER_FLAGS)) -shared -pthread -Wl,-z,now -o $@ $(filter %.c,$^)

# ---------------------------------------------------------------------------------------------------------------
# Linux: build/linux/libkmalloc.so and libkmalloc-hardened.so, malloc for programs that do not know of it
# ---------------------------------------------------------------------------------------------------------------

# The heap is compiled again, with the library's own port.
PRELOAD_VARIANTS := preload-release preload-hardened
PRELOAD_FOLDERS  := heap linux/port linux/preload
FLAGS_preload-release  := $(FLAGS_release)
FLAGS_preload-hardened := $(FLAGS_hardened)
# The compiler must not take the library's malloc for one that it knows, nor its exported names for its own. Thread-local
# state lies at addresses that are known at the start: nothing is called, and nothing allocated, to find it.
# One unit at the link, with the same flags for all, so that the heap's fast path becomes part of malloc and free.
PRELOAD := -fPIC -fno-plt -ftls-model=initial-exec -fvisibility=hidden -fsemantic-interposition -fexceptions -pthread \
           -flto $(if $(findstring clang,$(CC)),,-flto-partition=one) $(FOLDER_heap) \
           -DKMALLOC_PORT_HEADER='"../app/linux/preload/port.h"'
# No lazy binding: a call would be bound in the middle of anything. initfirst: ready before any other library's constructors.
PRELOAD_LINK := -shared -pthread -Wl,-z,now -Wl,-z,relro -Wl,-z,initfirst -Wl,-z,noexecstack -Wl,--no-undefined \
                -Wl,--hash-style=gnu -Wl,-soname,libkmalloc.so

# $(call preload_compile,<variant>,<folder>)
define preload_compile
$(BUILD)/linux/$(1)/$(2)/%.o: app/$(2)/%.c $(BUILD)/linux/$(1)/flags
	$$(call say,CC,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(COMMON) $$(PRELOAD) $$(CFLAGS) $$(FLAGS_$(1)) -c -o $$@ $$<
endef

# $(call preload_variant,<variant>)
define preload_variant
$(foreach folder,$(PRELOAD_FOLDERS),$(eval $(call preload_compile,$(1),$(folder))))

$(BUILD)/linux/$(1)/flags: FORCE | $(SETUP)
	$$(call remember,$$(CC) $$(COMMON) $$(subst ',,$$(PRELOAD)) $$(CFLAGS) $$(FLAGS_$(1)) $$(PRELOAD_LINK))

$(BUILD)/linux/$(1)/sources: FORCE | $(SETUP)
	$$(call remember,$$(call objects,linux/$(1),$(PRELOAD_FOLDERS)))

$(BUILD)/linux/$(1)/libkmalloc.so: $(call objects,linux/$(1),$(PRELOAD_FOLDERS)) $(BUILD)/linux/$(1)/sources
	$$(call say,LD,$$@)
	$$(Q)$$(CC) $$(filter-out -MMD -MP,$$(COMMON)) $$(PRELOAD) $$(PRELOAD_LINK) $$(CFLAGS) -o $$@ $$(filter %.o,$$^)
endef
$(foreach variant,$(PRELOAD_VARIANTS),$(eval $(call preload_variant,$(variant))))

# Renamed into place: a running program may have the old file mapped.
$(BUILD)/linux/libkmalloc.so: $(BUILD)/linux/preload-release/libkmalloc.so
	$(Q)cp -f $< $@.new && mv -f $@.new $@
$(BUILD)/linux/libkmalloc-hardened.so: $(BUILD)/linux/preload-hardened/libkmalloc.so
	$(Q)cp -f $< $@.new && mv -f $@.new $@

PRELOAD_LIBRARIES := $(BUILD)/linux/libkmalloc.so $(BUILD)/linux/libkmalloc-hardened.so

# ---------------------------------------------------------------------------------------------------------------
# The measuring programs: build/bench/count, worst (the heap, called directly) and time (malloc, whichever is preloaded)
# ---------------------------------------------------------------------------------------------------------------

# Counts of instructions are those of one compiler and one setting, whatever the rest is built with.
BENCH_CC    := gcc
BENCH_HEAP  := -std=gnu17 -O2 -g -fPIE -Iinclude $(FREESTANDING) -fno-builtin -fno-tree-loop-distribute-patterns \
               -fno-align-loops -fno-align-jumps
BENCH_FLAGS := -std=gnu17 -O2 -g -fPIE -Iinclude $(WARNINGS) -fno-builtin

$(BUILD)/bench/heap.o: $(wildcard app/heap/*.c app/heap/*.h include/*.h) Makefile | $(SETUP)
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(BENCH_CC) $(BENCH_HEAP) -nostdlib -r -o $@ $(filter %.c,$^)

$(BUILD)/bench/count $(BUILD)/bench/worst: $(BUILD)/bench/%: scripts/bench/%.c scripts/bench/work.c scripts/bench/work.h $(BUILD)/bench/heap.o
	$(call say,CC,$@)
	$(Q)$(BENCH_CC) $(BENCH_FLAGS) -pie -o $@ $(filter %.c %.o,$^)

$(BUILD)/bench/time: scripts/bench/time.c scripts/bench/work.c scripts/bench/work.h Makefile | $(SETUP)
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(BENCH_CC) $(BENCH_FLAGS) -fno-plt -pie -Wl,-z,now -o $@ $(filter %.c,$^)

$(BUILD)/bench/run: scripts/bench/run.c Makefile | $(SETUP)
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(BENCH_CC) $(BENCH_FLAGS) -o $@ $<

BENCH_PROGRAMS := $(BUILD)/bench/count $(BUILD)/bench/worst $(BUILD)/bench/time $(BUILD)/bench/run

# ---------------------------------------------------------------------------------------------------------------
# UEFI: build/x86_64/kmalloc.efi, build/x86_64-check/kmalloc.efi
# ---------------------------------------------------------------------------------------------------------------

EFI_VARIANTS := x86_64 x86_64-check
FLAGS_x86_64       := $(FLAGS_release)
FLAGS_x86_64-check := $(FLAGS_check)

# --no-dynamic-linker, -z text: the program relocates nothing by itself; make-pe.py turns what is left into PE base relocations.
EFI_LINK = $(LD) -m elf_x86_64 -nostdlib -pie --no-dynamic-linker -z text -z norelro -z noexecstack --no-undefined \
           --fatal-warnings --hash-style=gnu --build-id=none -T scripts/efi-x86_64.lds

# $(call efi_compile,<variant>,<folder>)
define efi_compile
$(BUILD)/$(1)/$(2)/%.o: app/$(2)/%.c $(BUILD)/$(1)/flags
	$$(call say,CC,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(COMMON) $$(UEFI) $$(FOLDER_$(2)) $$(CFLAGS) $$(FLAGS_$(1)) $$(call build_id_flag,$$<) -c -o $$@ $$<
endef

# $(call efi_variant,<variant>)
define efi_variant
$(foreach user,$(BUILD_ID_USERS),$(eval $(BUILD)/$(1)/$(user:app/%.c=%.o): $(BUILD)/build-id))
$(foreach folder,$(SHARED_FOLDERS) efi,$(eval $(call efi_compile,$(1),$(folder))))

$(BUILD)/$(1)/flags: FORCE | $(SETUP)
	$$(call remember,$$(CC) $$(COMMON) $$(subst ',,$$(UEFI)) $$(CFLAGS) $$(FLAGS_$(1)) \
	                 $(foreach f,$(SHARED_FOLDERS) efi,$$(FOLDER_$(f))) $$(EFI_LINK) $(EFI_LIBRARY))

$(BUILD)/$(1)/sources: FORCE | $(SETUP)
	$$(call remember,$$(call objects,$(1),$(SHARED_FOLDERS) efi))

$(BUILD)/$(1)/kmalloc.elf: $(call objects,$(1),$(SHARED_FOLDERS) efi) $(BUILD)/$(1)/flags $(BUILD)/$(1)/sources \
                           scripts/efi-x86_64.lds
	$$(call say,LD,$$@)
	$$(Q)$$(EFI_LINK) -o $$@ $(EFI_LIBRARY)/crt0-efi-x86_64.o $$(filter %.o,$$^) -L$(EFI_LIBRARY) -lefi -lgnuefi
endef
$(foreach variant,$(EFI_VARIANTS),$(eval $(call efi_variant,$(variant))))

%.efi: %.elf scripts/make-pe.py
	$(call say,PE,$@)
	$(Q)$(PYTHON) scripts/make-pe.py $< $@

# Keep the ELF file: it holds the symbols and line numbers.
.PRECIOUS: %.elf

EFI_PROGRAMS := $(EFI_VARIANTS:%=$(BUILD)/%/kmalloc.efi)

# The test driver's way into a firmware snapshot; not part of the product.
SNAPSHOT_LOADER := $(BUILD)/test-efi/snapshot-loader.efi
$(SNAPSHOT_LOADER:.efi=.o): scripts/snapshot-loader.c $(BUILD)/x86_64/flags
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(COMMON) $(UEFI) $(FOLDER_efi) $(CFLAGS) -c -o $@ $<

$(SNAPSHOT_LOADER:.efi=.elf): $(SNAPSHOT_LOADER:.efi=.o) scripts/efi-x86_64.lds
	$(call say,LD,$@)
	$(Q)$(EFI_LINK) -o $@ $(EFI_LIBRARY)/crt0-efi-x86_64.o $< -L$(EFI_LIBRARY) -lefi -lgnuefi

# The ESP as it lands on a stick: BOOTX64.EFI and what is in esp/.
$(BUILD)/kmalloc.img: $(BUILD)/x86_64/kmalloc.efi scripts/make-image.sh $(wildcard esp/* esp/*/* esp/*/*/*)
	$(call say,IMAGE,$@)
	$(Q)scripts/make-image.sh $@ $<

# ---------------------------------------------------------------------------------------------------------------
# Targets that people type; the text behind ## is what `make help` prints
# ---------------------------------------------------------------------------------------------------------------

.PHONY: all setup run test test-host test-preload test-efi image traces replay bench bench-efi bench-golden check-style format clean help FORCE

all: $(EFI_PROGRAMS) $(BUILD)/kmalloc.img $(BUILD)/linux/kmalloc $(BUILD)/linux/libkmalloc.a $(PRELOAD_LIBRARIES) $(RECORDER) ## everything but the test variants of the Linux command (the default)

setup: ## install the Debian packages that are missing
	@scripts/setup.sh

run: $(BUILD)/kmalloc.img | $(SETUP) ## start the program in QEMU: in a window, or in this terminal where there is no display
	@scripts/run-qemu.sh $<

TEST_HOST_NEEDS := all $(LINUX_PROGRAMS) $(BENCH_PROGRAMS)
TEST_EFI_NEEDS  := all $(SNAPSHOT_LOADER)

test: $(TEST_HOST_NEEDS) $(TEST_EFI_NEEDS) | $(SETUP) ## test-host, test-preload and test-efi, and the sum of them
	@scripts/test.sh "$(PYTHON) scripts/test_host.py --build $(BUILD)" "$(PYTHON) scripts/test_preload.py --build $(BUILD)" \
	                 "$(PYTHON) scripts/test_efi.py --build $(BUILD)"

test-host: $(TEST_HOST_NEEDS) | $(SETUP) ## test the heap and the suite on Linux (release, hardened, check, caches, sanitizers), and the products' form
	@$(PYTHON) scripts/test_host.py --build $(BUILD)

test-preload: $(PRELOAD_LIBRARIES) | $(SETUP) ## test libkmalloc.so: what malloc promises, and real programs beside themselves without it
	@$(PYTHON) scripts/test_preload.py --build $(BUILD)

test-efi: $(TEST_EFI_NEEDS) | $(SETUP) ## test the UEFI program in QEMU, without a window
	@$(PYTHON) scripts/test_efi.py --build $(BUILD)

traces: $(RECORDER) $(BUILD)/linux/libkmalloc.a | $(SETUP) ## record real programs into build/traces (those of Debian's packages that are installed)
	@scripts/record-traces.sh -p $(RECORDER) $(BUILD)/traces

replay: $(BUILD)/linux/kmalloc ## replay all recorded traces: memory and time of each, and the geometric means
	@$(PYTHON) scripts/replay-traces.py --program $(BUILD)/linux/kmalloc --chart $(BUILD)/bench/footprint.svg esp/traces $(BUILD)/traces

bench: $(BENCH_PROGRAMS) $(PRELOAD_LIBRARIES) $(BUILD)/linux/kmalloc | $(SETUP) ## measure on Linux: instructions, waste, time and memory beside other allocators; charts in build/bench
	@$(PYTHON) scripts/bench.py --build $(BUILD)

bench-efi: $(BUILD)/x86_64/kmalloc.efi | $(SETUP) ## count instructions in the firmware: the heap, the classic engine, the firmware's pool and pages
	@$(PYTHON) scripts/bench_efi.py --build $(BUILD) -o $(BUILD)/bench-efi/firmware.json

bench-golden: $(BUILD)/bench/count ## take today's instruction counts as those that `make test` compares with
	@$(PYTHON) scripts/bench.py --build $(BUILD) --golden

image: $(BUILD)/kmalloc.img ## make build/kmalloc.img, a bootable USB stick

STYLED = $(shell find app include scripts -name '*.[ch]')

check-style: | $(SETUP) ## complain about formatting and about files that are too long
	@scripts/check-style.sh

format: | $(SETUP) ## put the sources into the project's format
	$(Q)clang-format -i $(STYLED)

clean: ## remove build/
	rm -rf $(BUILD)

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

FORCE:

-include $(foreach d,$(LINUX_VARIANTS:%=linux/%) $(PRELOAD_VARIANTS:%=linux/%) $(EFI_VARIANTS) test-efi,$(wildcard $(BUILD)/$(d)/*.d $(BUILD)/$(d)/*/*.d $(BUILD)/$(d)/*/*/*.d))
