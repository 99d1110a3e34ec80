/* The fuzz targets over their corpora: what was once found stays fixed, without a fuzzer. */
#include "tests/harness/tap.h"

#include "tests/fuzz/target.h"

typedef int target(const uint8_t *data, size_t size);

target fuzz_control, fuzz_formats, fuzz_json, fuzz_reader, fuzz_values;

enum { INPUT_MAX = 64 * 1024 };

static void run_file(target *run, const char *path)
{
    static uint8_t data[INPUT_MAX];
    FILE *file = fopen(path, "rbe");

    ASSERT(file != NULL);
    size_t size = fread(data, 1, sizeof data, file);
    ASSERT(size < sizeof data && !ferror(file));
    fclose(file);
    DIAG("%s", path); /* shown if the test fails in it: the last one */
    run(data, size);
}

static void run_corpus(target *run, const char *name)
{
    const char *top = getenv("top_srcdir");
    char folder[2048], path[4096];
    int count = 0;

    snprintf(folder, sizeof folder, "%s/tests/fuzz/corpus/%s", top ? top : ".", name);
    DIR *files = opendir(folder);
    ASSERT(files != NULL);
    for (struct dirent *entry; (entry = readdir(files));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        run_file(run, path);
        count++;
    }
    closedir(files);
    ASSERT(count > 0);
}

TEST(the_corpus_of_control_messages_holds)
{
    run_corpus(fuzz_control, "control");
}

TEST(the_corpus_of_formats_holds)
{
    run_corpus(fuzz_formats, "formats");
}

TEST(the_corpus_of_json_texts_holds)
{
    run_corpus(fuzz_json, "json");
}

TEST(the_corpus_of_input_files_holds)
{
    run_corpus(fuzz_reader, "reader");
}

TEST(the_corpus_of_values_holds)
{
    run_corpus(fuzz_values, "values");
}

TAP_MAIN
