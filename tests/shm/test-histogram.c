/* What lib/shm/histogram.h promises: each time is in its bucket, quantiles are right within one, sampling takes as
 * many as it says. */
#include "tests/shm/fixture.h"

#include "lib/shm/histogram.h"

static pc_histogram histogram;
static pc_histogram_sum sum;

static void add_up(void)
{
    sum = (pc_histogram_sum){0};
    pc_histogram_add(&sum, &histogram);
}

TEST(each_bucket_begins_where_the_one_before_ends)
{
    ASSERT_INT(pc_histogram_start(0), 0);
    for (unsigned i = 0; i < PC_HISTOGRAM_BUCKETS; i++) {
        uint64_t start = pc_histogram_start(i), end = pc_histogram_start(i + 1);

        ASSERT(start < end);
        ASSERT_INT(pc_histogram_bucket(start), i);
        ASSERT_INT(pc_histogram_bucket(end - 1), i);
        ASSERT(end - start == 1 || (end - start) * 8 <= start);
    }
    ASSERT_INT(pc_histogram_start(PC_HISTOGRAM_BUCKETS), INT64_C(1) << PC_HISTOGRAM_TOP);
    ASSERT_INT(pc_histogram_bucket(UINT64_MAX), PC_HISTOGRAM_BUCKETS - 1);
}

TEST(quantiles_are_right_within_an_eighth)
{
    for (int64_t ns = 1; ns <= 1000000; ns++)
        if (ns % 7 == 0)
            pc_histogram_count(&histogram, ns, 3);
    add_up();
    ASSERT_INT(sum.count, 3 * (1000000 / 7));
    ASSERT_INT(sum.max, 1000000 / 7 * 7);
    for (unsigned i = 1; i < 1000; i++) {
        double share = i / 1000.0;
        double exact = share * 1000000, got = (double)pc_histogram_quantile(&sum, share);

        if (got < exact * 0.87 - 8 || got > exact * 1.13 + 8)
            tap_fail("%g of them: %g, and is %g", share, got, exact);
    }
    ASSERT_INT(pc_histogram_quantile(&sum, 1), sum.max);
    ASSERT_INT(sum.sum, 3 * INT64_C(7) * (142857 * INT64_C(142858) / 2));
    ASSERT_INT(pc_histogram_below(&sum, 1 << 20), sum.count);
    ASSERT_INT(pc_histogram_below(&sum, 1024), 3 * (1023 / 7));
}

TEST(of_nothing_quantiles_are_0)
{
    add_up();
    ASSERT_INT(pc_histogram_quantile(&sum, 0), 0);
    ASSERT_INT(pc_histogram_quantile(&sum, 1), 0);
    ASSERT_INT(sum.count, 0);
}

TEST(no_time_is_too_short_or_too_long)
{
    pc_histogram_count(&histogram, -5, 1);
    pc_histogram_count(&histogram, 0, 1);
    pc_histogram_count(&histogram, INT64_MAX, 1);
    add_up();
    ASSERT_INT(sum.count, 3);
    ASSERT_INT(pc_histogram_quantile(&sum, 0.5), 0);
    ASSERT_INT(sum.max, INT64_MAX);
    ASSERT(pc_histogram_quantile(&sum, 1) >= INT64_C(7) << (PC_HISTOGRAM_TOP - 3));
}

/* As after a function of the user's that writes anywhere. */
TEST(nothing_in_a_histogram_hurts_its_reader)
{
    memset(&histogram, 0xff, sizeof histogram);
    add_up();
    pc_histogram_add(&sum, &histogram);
    ASSERT(sum.count == UINT64_MAX && sum.sum == UINT64_MAX);
    for (int i = 0; i <= 100; i++)
        ASSERT(pc_histogram_quantile(&sum, i / 100.0) >= 0);
    ASSERT(pc_histogram_below(&sum, UINT64_MAX) == UINT64_MAX);
}

TEST(one_of_two_to_the_n_is_taken_whatever_the_step)
{
    uint32_t mask = 0;

    for (unsigned n = 0; n <= PC_SAMPLING_MAX; n++, mask = pc_sampling_next(mask, 1)) {
        ASSERT_INT(pc_sampling_weight(mask), 1 << n);
        for (uint32_t step = 1; step <= 100; step++) {
            uint32_t taken = 0;

            for (uint32_t i = 0; i < 10000; i++)
                taken += pc_sampling_takes(12345 + i * step, mask);
            if (taken * (UINT32_C(1) << n) < 9000 || taken * (UINT32_C(1) << n) > 11000)
                tap_fail("%u of 10000, where 1 of %u is to be, in steps of %u", taken, 1u << n, step);
        }
    }
    ASSERT_INT(pc_sampling_weight(mask), 1 << PC_SAMPLING_MAX);
    ASSERT_INT(pc_sampling_weight(pc_sampling_next(mask, PC_LONG_NS)), 32);
    ASSERT_INT(pc_sampling_weight(pc_sampling_next(mask, 10 * PC_LONG_NS)), 16);
    mask = pc_sampling_next(mask, 100 * PC_LONG_NS);
    ASSERT_INT(pc_sampling_weight(mask), 8);
    mask = pc_sampling_next(mask, INT64_MAX);
    ASSERT_INT(pc_sampling_weight(mask), 1);
    ASSERT_INT(pc_sampling_next(mask, INT64_MAX), 0);
}

TAP_MAIN
