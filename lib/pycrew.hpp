/* pycrew.hpp: pycrew.h for C++17, and coroutines for C++20. Header only; link libpycrew.
 *
 *     pycrew::crew crew;
 *     int sum = crew.run<int>("math_ops:add", 3, 5);
 *     std::future<int> later = crew.async<int>("math_ops:add", 3, 5);
 *     for (int x : crew.stream<int>("math_ops:primes", 10))
 *         std::cout << x << "\n";
 *     crew.export_function("price", [&](const std::string &of) { return prices.at(of); });
 *
 * Errors    What fails throws pycrew::error. What has failed is destroyed as anything else.
 * Types     bool, ints to 64 bits, float, double, std::string, std::string_view, text in quotes, std::optional
 *           (None), std::vector and std::array (list), std::tuple and std::pair (tuple), std::map and
 *           std::unordered_map (dict), std::vector<std::byte> (bytes), nested as one likes; bigint; pickle; and alone
 *           array (numpy.ndarray) and json. Specialise pycrew::convert for others. A result may be a list or a tuple,
 *           whichever of them is asked for; an int that does not fit is -ERANGE. As arguments nullptr, std::nullopt and
 *           a null pointer to text are None.
 * Views     std::string_view, bytes_view, array_view of const and value point into a result: they can be got of a
 *           call, valid until it is destroyed, of a stream or batch, until its next item, and as parameters of an
 *           exported function. run, async and loop::call do not give them.
 * Lifetime  All that was made by a crew is to be gone before it is, as locals declared behind it are; futures may
 *           stay, without arrays in them. No destructor waits for Python longer than the crew's grace; close and the
 *           crew's destructor wait for exported functions that run.
 * Threads   As in pycrew.h: everything of a crew at the same time, one call, stream, batch, queue or loop in one
 *           thread at a time.
 * Time      std::chrono durations; pycrew::forever.
 *
 * Not here: DLPack. native() gives what pycrew.h's functions take.
 */
#ifndef PYCREW_HPP
#define PYCREW_HPP

#include "pycrew.h"

#include "pycrew/error.hpp"     /* error */
#include "pycrew/convert.hpp"   /* values: convert, bytes_view, json, pickle, bigint, value */
#include "pycrew/array.hpp"     /* array_view, writable, array, buffer */
#include "pycrew/queue.hpp"     /* queue */
#include "pycrew/call.hpp"      /* keyword, function, call */
#include "pycrew/stream.hpp"    /* stream */
#include "pycrew/batch.hpp"     /* batch, batch_options */
#include "pycrew/future.hpp"    /* how crew::async's promises are kept */
#include "pycrew/actor.hpp"     /* actor */
#include "pycrew/map.hpp"       /* map_options */
#include "pycrew/host.hpp"      /* python_error, host_call: for crew::export_function */
#include "pycrew/options.hpp"   /* options */
#include "pycrew/stats.hpp"     /* stats */
#include "pycrew/crew.hpp"      /* crew */
#include "pycrew/coroutine.hpp" /* task, loop, pending, flow: where the compiler has C++20 */

#endif
