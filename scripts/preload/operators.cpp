// SPDX-License-Identifier: MIT
//
// What a C++ program may expect of new and delete, asked of whatever library is preloaded. Not part of the product.
//
// usage: operators          the library's operators; the last line is "operators passed"
//        operators replaced the same in a program with its own plain new and delete (compiled with -DREPLACE_OPERATORS)

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#define CHECK(condition)                                                                                                \
	((condition) ? (void)0 : (std::fprintf(stderr, "line %d: not true: %s\n", __LINE__, #condition), std::exit(1)))

// The compiler may neither know the size nor drop the pair.
static volatile std::size_t volatile_size;
static void *volatile volatile_pointer;

static std::size_t hide(std::size_t size)
{
	volatile_size = size;
	return volatile_size;
}

static void *touch(void *object, std::size_t size)
{
	CHECK(object != nullptr);
	std::memset(object, 0xa5, size);
	volatile_pointer = object;
	return volatile_pointer;
}

#ifdef REPLACE_OPERATORS
// A program's own operators, with a header in front of each object: a pointer that comes from elsewhere is noticed.
static std::size_t n_live;
static constexpr std::uint64_t MARK = 0x6b6d616c6c6f6321;

void *operator new(std::size_t size)
{
	auto *header = size < PTRDIFF_MAX ? static_cast<std::uint64_t *>(std::malloc(size + 16)) : nullptr;

	if (!header)
		throw std::bad_alloc();
	n_live++;
	header[0] = MARK;
	return header + 2;
}

void operator delete(void *object) noexcept
{
	if (!object)
		return;
	auto *header = static_cast<std::uint64_t *>(object) - 2;

	CHECK(header[0] == MARK);
	header[0] = 0;
	n_live--;
	std::free(header);
}

void operator delete(void *object, std::size_t) noexcept
{
	operator delete(object);
}
#endif

template <class New, class Delete> static void pairs(New make, Delete end)
{
	for (std::size_t size = 0; size < 200000; size = size * 5 / 4 + 1)
		end(touch(make(hide(size)), size), size);
}

static void test_plain_forms()
{
	using std::nothrow;
	pairs([](auto n) { return operator new(n); }, [](void *p, auto) { operator delete(p); });
	pairs([](auto n) { return operator new(n); }, [](void *p, auto n) { operator delete(p, n); });
	pairs([](auto n) { return operator new(n, nothrow); }, [](void *p, auto) { operator delete(p, nothrow); });
	pairs([](auto n) { return operator new(n, nothrow); }, [](void *p, auto n) { operator delete(p, n); });
	pairs([](auto n) { return operator new[](n); }, [](void *p, auto) { operator delete[](p); });
	pairs([](auto n) { return operator new[](n); }, [](void *p, auto n) { operator delete[](p, n); });
	pairs([](auto n) { return operator new[](n, nothrow); }, [](void *p, auto) { operator delete[](p, nothrow); });
	pairs([](auto n) { return operator new[](n, nothrow); }, [](void *p, auto) { operator delete[](p); });
	operator delete(nullptr);
	operator delete[](nullptr);
	operator delete(nullptr, std::size_t(8));
}

static void test_aligned_forms()
{
	using std::nothrow;
	for (std::size_t alignment = 1; alignment <= 65536; alignment *= 2) {
		auto a = std::align_val_t(alignment);
		auto is_aligned = [=](void *p) {
			CHECK(reinterpret_cast<std::uintptr_t>(p) % alignment == 0);
			return p;
		};
		pairs([=](auto n) { return is_aligned(operator new(n, a)); }, [=](void *p, auto) { operator delete(p, a); });
		pairs([=](auto n) { return is_aligned(operator new(n, a)); }, [=](void *p, auto n) { operator delete(p, n, a); });
		pairs([=](auto n) { return is_aligned(operator new(n, a, nothrow)); },
		      [=](void *p, auto) { operator delete(p, a, nothrow); });
		pairs([=](auto n) { return is_aligned(operator new[](n, a)); }, [=](void *p, auto) { operator delete[](p, a); });
		pairs([=](auto n) { return is_aligned(operator new[](n, a)); },
		      [=](void *p, auto n) { operator delete[](p, n, a); });
		pairs([=](auto n) { return is_aligned(operator new[](n, a, nothrow)); },
		      [=](void *p, auto) { operator delete[](p, a, nothrow); });
	}
}

template <class Call> static bool throws_bad_alloc(Call call)
{
	try {
		call();
	} catch (const std::bad_alloc &) {
		return std::uncaught_exceptions() == 0;
	}
	return false;
}

static constexpr auto LINE = std::align_val_t(64);

static void test_out_of_memory()
{
	const std::size_t huge = hide(PTRDIFF_MAX - 100);

	for (int i = 0; i < 3; i++) {
		CHECK(throws_bad_alloc([=] { volatile_pointer = operator new(huge); }));
		CHECK(throws_bad_alloc([=] { volatile_pointer = operator new[](huge); }));
		CHECK(throws_bad_alloc([=] { volatile_pointer = operator new(huge, LINE); }));
		CHECK(throws_bad_alloc([=] { volatile_pointer = operator new[](huge, LINE); }));
		CHECK(operator new(huge, std::nothrow) == nullptr);
		CHECK(operator new[](huge, std::nothrow) == nullptr);
		CHECK(operator new(huge, LINE, std::nothrow) == nullptr);
		CHECK(operator new[](huge, LINE, std::nothrow) == nullptr);
		CHECK(std::uncaught_exceptions() == 0);
	}
	CHECK(throws_bad_alloc([=] { std::vector<char>().reserve(huge / 2); }));
	CHECK(throws_bad_alloc([=] { volatile_pointer = new char[hide(SIZE_MAX)]; }));
}

#ifndef REPLACE_OPERATORS
static int n_called;

struct from_handler {
};

static void test_new_handler()
{
	const std::size_t huge = hide(PTRDIFF_MAX - 100);

	// Gives up the third time.
	std::set_new_handler([] {
		if (++n_called == 3)
			std::set_new_handler(nullptr);
	});
	CHECK(throws_bad_alloc([=] { volatile_pointer = operator new(huge); }) && n_called == 3);
	std::set_new_handler([] {
		n_called++;
		throw std::bad_alloc();
	});
	CHECK(throws_bad_alloc([=] { volatile_pointer = operator new(huge); }) && n_called == 4);
	CHECK(throws_bad_alloc([=] { volatile_pointer = operator new[](huge, LINE); }) && n_called == 5);
	CHECK(operator new(huge, std::nothrow) == nullptr && n_called == 6);
	CHECK(operator new[](huge, std::nothrow) == nullptr && n_called == 7);
	CHECK(operator new(huge, LINE, std::nothrow) == nullptr && n_called == 8);
	CHECK(operator new[](huge, LINE, std::nothrow) == nullptr && n_called == 9);
	std::set_new_handler([] { throw from_handler(); });
	try {
		volatile_pointer = operator new(huge);
		CHECK(false);
	} catch (const from_handler &) {
	}
	std::set_new_handler(nullptr);
	CHECK(std::uncaught_exceptions() == 0);
}
#endif

struct alignas(128) wide {
	char bytes[200];
	wide() { std::memset(bytes, 1, sizeof(bytes)); }
	virtual ~wide() = default;
};

struct wider final : wide {
	std::vector<std::string> names;
};

static void use_containers(unsigned seed)
{
	std::map<std::string, std::list<int>> tree;
	std::unordered_map<int, std::unique_ptr<wide>> table;
	std::vector<std::string> strings;

	for (unsigned i = 0; i < 4000; i++) {
		unsigned x = (i * 2654435761u + seed) % 997;
		tree[std::to_string(x) + " is a key of some length"].push_back(static_cast<int>(i));
		table[static_cast<int>(x)] = std::make_unique<wider>();
		CHECK(reinterpret_cast<std::uintptr_t>(table[static_cast<int>(x)].get()) % 128 == 0);
		strings.emplace_back(x, 'x');
		if (i % 7 == 0)
			table.erase(static_cast<int>(x / 2));
	}
	// Its buffer comes from new(nothrow) and goes through plain delete.
	std::stable_sort(strings.begin(), strings.end());
	CHECK(std::is_sorted(strings.begin(), strings.end()));
	std::size_t n = 0;
	for (const auto &entry : tree)
		n += entry.second.size();
	CHECK(n == 4000);
	std::ostringstream text;
	for (const auto &string : strings)
		text << string.size() << ' ';
	CHECK(text.str().size() > 10000);
	auto shared = std::make_shared<std::vector<std::shared_ptr<std::string>>>();
	for (int i = 0; i < 1000; i++)
		shared->push_back(std::make_shared<std::string>(static_cast<std::size_t>(i), 'y'));
	CHECK(std::accumulate(shared->begin(), shared->end(), std::size_t(0), [](auto sum, const auto &s) { return sum + s->size(); }) ==
	      999 * 1000 / 2);
}

int main()
{
	test_plain_forms();
	test_aligned_forms();
	test_out_of_memory();
#ifdef REPLACE_OPERATORS
	std::size_t before = n_live;
	use_containers(1);
	CHECK(n_live == before);
#else
	test_new_handler();
	std::vector<std::thread> threads;
	for (unsigned i = 0; i < 4; i++)
		threads.emplace_back(use_containers, i);
	for (auto &thread : threads)
		thread.join();
#endif
	std::puts("operators passed");
}
