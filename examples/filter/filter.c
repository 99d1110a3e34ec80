/* Blurs a picture tile by tile, in place, with all workers: nothing of the tiles is copied on the
 * way to Python or back. The result is that of the whole picture.   filter [FILE]: its pixels go
 * there. */
#include <pycrew.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 300, HALO = 12 }; /* HALO as in filter_ops.py */

static pycrew_crew *crew;

static void must(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "filter: %s\n", pycrew_last_error()->message);
        exit(1);
    }
}

/* Rows [top, bottom) and columns [left, right) of the picture, where it has them. */
static pycrew_array part(const pycrew_array *picture, int64_t top, int64_t bottom, int64_t left,
                         int64_t right)
{
    pycrew_array cut = *picture;
    top = top < 0 ? 0 : top;
    left = left < 0 ? 0 : left;
    cut.shape[0] = (bottom < picture->shape[0] ? bottom : picture->shape[0]) - top;
    cut.shape[1] = (right < picture->shape[1] ? right : picture->shape[1]) - left;
    cut.data = (char *)picture->data + top * picture->strides[0] + left * picture->strides[1];
    cut.flags = PYCREW_STRIDED;
    return cut;
}

/* A part as it is now: copied, since other calls will write to the picture. */
static void add_copy(pycrew_call *call, pycrew_array of)
{
    size_t row = (size_t)of.shape[1] * of.itemsize;
    char *copy = malloc((size_t)of.shape[0] * row + 1);
    pycrew_array array;
    if (copy == NULL)
        abort();
    for (int64_t i = 0; i < of.shape[0]; i++)
        memcpy(copy + (size_t)i * row, (char *)of.data + i * of.strides[0], row);
    must(pycrew_array_init(&array, copy, of.dtype, 2, of.shape, 0));
    must(
        pycrew_add_array(call, &array)); /* what is not the crew's memory is read here, not later */
    free(copy);
}

static pycrew_call *tile_call(const pycrew_function *blur_tile, const pycrew_array *picture,
                              int64_t top, int64_t left)
{
    pycrew_call *call;
    pycrew_array tile = part(picture, top, top + TILE, left, left + TILE);
    int64_t bottom = top + tile.shape[0], right = left + tile.shape[1];
    tile.flags |= PYCREW_WRITABLE;
    must(pycrew_prepare(crew, blur_tile, PYCREW_FOREVER, &call));
    must(pycrew_add_array(call, &tile));
    add_copy(call, part(picture, top - HALO, top, left - HALO, right + HALO));
    add_copy(call, part(picture, top, bottom, left - HALO, left));
    add_copy(call, part(picture, top, bottom, right, right + HALO));
    add_copy(call, part(picture, bottom, bottom + HALO, left - HALO, right + HALO));
    return call;
}

int main(int argc, char **argv)
{
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.path = (const char *[]){FILTER_FOLDER, NULL};
    options.preload = (const char *[]){"filter_ops", NULL};
    must(pycrew_open(&crew, &options));
    const pycrew_function *blur_tile;
    must(pycrew_function_get(crew, "filter_ops:blur_tile", &blur_tile));
    pycrew_array picture = PYCREW_ARRAY_INIT, whole = PYCREW_ARRAY_INIT;
    must(pycrew_run(crew, "filter_ops:picture", ">A", &picture));
    must(pycrew_run(crew, "filter_ops:blur", "A>A", &picture, &whole));

    /* All halos are copied before the first tile is written. */
    pycrew_call *calls[1024];
    size_t count = 0;
    for (int64_t top = 0; top < picture.shape[0]; top += TILE)
        for (int64_t left = 0; left < picture.shape[1]; left += TILE)
            calls[count++] = tile_call(blur_tile, &picture, top, left);
    for (size_t i = 0; i < count; i++)
        must(pycrew_submit(calls[i]));
    for (size_t i = 0; i < count; i++) {
        must(pycrew_wait(calls[i], PYCREW_FOREVER));
        pycrew_release(calls[i]);
    }

    size_t size = (size_t)(picture.shape[0] * picture.shape[1]) * picture.itemsize;
    bool same = memcmp(picture.data, whole.data, size) == 0;
    printf("%zu tiles, blurred in place: %s\n", count, same ? "as the whole picture" : "WRONG");
    FILE *file = argc > 1 ? fopen(argv[1], "wb") : NULL;
    bool written =
        argc == 1 || (file && fwrite(picture.data, 1, size, file) == size && !fclose(file));
    pycrew_close(crew);
    return !same || !written;
}
