/* Classifies scikit-learn's handwritten digits: all in one call, image by image in a batch, and by
 * slices in a map. All three find the same.   digits [FILE]: what they found goes there. */
#include <pycrew.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pycrew_crew *crew;

static int must(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "digits: %s\n", pycrew_last_error()->message);
        exit(1);
    }
    return rc;
}

static const pycrew_function *function(const char *name)
{
    const pycrew_function *found;
    must(pycrew_function_get(crew, name, &found));
    return found;
}

/* A batch's items are small: each image goes as bytes, and any worker takes it. */
static void classify_in_batch(const pycrew_array *images, int64_t *found)
{
    pycrew_batch *batch;
    size_t size = (size_t)images->shape[1];
    int64_t added = 0;
    must(pycrew_batch_open(crew, function("digits_ops:classify"), NULL, &batch));
    for (;;) {
        int rc = 0;
        while (added < images->shape[0] && rc == 0) {
            rc = pycrew_batch_add(batch, "y#", (char *)images->data + added * images->strides[0],
                                  size);
            added += rc == 0;
        }
        if (rc != -EAGAIN) /* full: results make room */
            must(rc);
        if (must(pycrew_batch_next(batch, PYCREW_FOREVER)) == 0)
            break;
        long long digit;
        must(pycrew_batch_result(batch, "L", &digit));
        found[pycrew_batch_index(batch)] = digit;
    }
    pycrew_batch_close(batch);
}

/* The images are in memory that the workers see: each gets rows of them, and nothing is copied. */
static void classify_in_map(const pycrew_array *images, int64_t *found)
{
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    pycrew_array output;
    options.flags = PYCREW_MAP_WHOLE;
    must(pycrew_array_init(&output, found, PYCREW_I64, 1, images->shape, 0));
    must(pycrew_map(crew, function("digits_ops:classify_all"), images, 1, &output, &options));
}

int main(int argc, char **argv)
{
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.path = (const char *[]){DIGITS_FOLDER, NULL};
    options.preload = (const char *[]){"digits_ops", NULL};
    /* A worker for each CPU: threads of their own would be in each other's way. */
    options.env = (const char *[]){"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", NULL};
    must(pycrew_open(&crew, &options));

    pycrew_array images = PYCREW_ARRAY_INIT, truth = PYCREW_ARRAY_INIT, at_once = PYCREW_ARRAY_INIT;
    must(pycrew_run(crew, "digits_ops:images", ">A", &images));
    must(pycrew_run(crew, "digits_ops:truth", ">A", &truth));
    must(pycrew_run(crew, "digits_ops:classify_all", "A>A", &images, &at_once));
    size_t count = (size_t)images.shape[0], size = count * sizeof(int64_t);
    int64_t *in_batch = calloc(count, sizeof *in_batch), *in_map = calloc(count, sizeof *in_map);
    if (!in_batch || !in_map)
        return 1;
    classify_in_batch(&images, in_batch);
    classify_in_map(&images, in_map);

    const int64_t *right = truth.data;
    size_t hits = 0;
    for (size_t i = 0; i < count; i++)
        hits += in_batch[i] == right[i];
    bool same =
        memcmp(at_once.data, in_batch, size) == 0 && memcmp(at_once.data, in_map, size) == 0;
    printf("%zu images, %zu of them recognized\n", count, hits);
    printf("One call, a batch and a map %s\n", same ? "found the same" : "DIFFER");
    FILE *file = argc > 1 ? fopen(argv[1], "w") : NULL;
    for (size_t i = 0; file && i < count; i++)
        fprintf(file, "%lld\n", (long long)in_map[i]);
    bool written = argc == 1 || (file && fclose(file) == 0);
    free(in_batch);
    free(in_map);
    pycrew_close(crew);
    return !same || !written;
}
