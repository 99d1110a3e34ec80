/* formats: building by a format, reading a result by one, and records, which must agree.
 *
 * The arguments are slots of 8 bytes that a va_list of our own walks, so that how many there are,
 * and of what types, may come from the input. */
#include "tests/fuzz/target.h"

#include <errno.h>

#include "lib/builder.h"
#include "lib/format.h"
#include "lib/record.h"

#if defined(__x86_64__) || defined(__aarch64__)

enum { SLOTS = 16, FORMAT_MAX = 64, TEXT_MAX = 24 };

typedef struct arguments {
    uint64_t slots[SLOTS];
    char kinds[SLOTS]; /* the unit; '#' for a size */
    void *texts[SLOTS];
    unsigned count;
} arguments;

/* A va_list whose registers are used up: all arguments are taken from slots. */
static void start(va_list *list, uint64_t slots[SLOTS])
{
    char *bytes = (char *)slots;
#ifdef __x86_64__
    struct {
        unsigned general, floating;
        void *stack, *saved;
    } filled = {48, 176, bytes, NULL};
#else
    struct {
        void *stack, *general_top, *vector_top;
        int general, vector;
    } filled = {bytes, NULL, NULL, 0, 0};
#endif
    _Static_assert(sizeof filled == sizeof *list, "the calling convention's va_list");
    memcpy(list, &filled, sizeof filled);
}

/* ---- what a format asks for ------------------------------------------------------------------ */

static bool is_name(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static size_t keyword(const char *at)
{
    size_t size = 0;

    while (is_name(at[size]))
        size++;
    return size > 0 && at[size] == '=' ? size + 1 : 0;
}

/* Notes what the units before '>' (or all, in a result) ask for; false: more than there are slots.
 * What stands behind an error is noted too, and never asked for. */
static bool scan(arguments *args, const char *format, bool result)
{
    bool separated = true;

    args->count = 0;
    for (const char *at = format; *at && (result || *at != '>'); at++) {
        size_t skip = separated && !result ? keyword(at) : 0;
        if (skip > 0) {
            at += skip - 1;
            separated = false;
            continue;
        }
        bool unit = strchr("pLiKndfOszjyA", *at), sized = at[1] == '#' && strchr("szjy", *at);
        separated = !unit;
        if (!unit || (*at == 'y' && !sized))
            continue;
        if (args->count + 2 > SLOTS)
            return false;
        args->kinds[args->count++] = *at;
        if (sized || *at == 'O')
            args->kinds[args->count++] = '#';
        at += sized;
    }
    return true;
}

/* ---- arguments ------------------------------------------------------------------------------- */

/* A text of its very size, with a NUL behind it only where that is its end. */
static void fill_text(arguments *args, unsigned *i, fuzz_input *in)
{
    bool sized = *i + 1 < args->count && args->kinds[*i + 1] == '#';
    uint8_t choice = fuzz_byte(in);
    fuzz_input text = fuzz_take(in, choice % TEXT_MAX);
    size_t size = fuzz_left(&text);
    char *copy = NULL;

    if (choice < 0xf0) {
        copy = malloc(size + !sized);
        CHECK(copy);
        if (size > 0)
            memcpy(copy, text.at, size);
        if (!sized)
            copy[size] = '\0';
    }
    args->texts[*i] = copy;
    args->slots[*i] = (uintptr_t)copy;
    if (sized)
        args->slots[++*i] = size;
}

static void fill(arguments *args, fuzz_input *in)
{
    for (unsigned i = 0; i < args->count; i++) {
        args->texts[i] = NULL;
        if (strchr("Oszjy", args->kinds[i]))
            fill_text(args, &i, in);
        else
            args->slots[i] = fuzz_word(in);
    }
}

static void release(arguments *args)
{
    for (unsigned i = 0; i < args->count; i++)
        if (strchr("Oszjy", args->kinds[i]))
            free(args->texts[i]);
}

/* ---- a message ------------------------------------------------------------------------------- */

/* Each time a block of just the size: what is written behind it is seen. */
static int grow(pc_writer *writer, size_t need)
{
    uint8_t *data = malloc(need);

    CHECK(data);
    if (writer->size > 0)
        memcpy(data, writer->data, writer->size);
    free(writer->data);
    writer->data = data;
    writer->capacity = need;
    return 0;
}

static int grow_no_more(pc_writer *writer, size_t need)
{
    return need > 128 ? -E2BIG : grow(writer, need);
}

static void check_data(const pc_view *view, const arguments *args, unsigned *i)
{
    char unit = args->kinds[*i];
    const char *text = args->texts[*i];
    bool sized = *i + 1 < args->count && args->kinds[*i + 1] == '#';
    size_t size = sized ? args->slots[*i + 1] : text ? strlen(text) : 0;
    enum pc_tag tag = unit == 'O'   ? PC_TAG_OBJECT
                      : unit == 'y' ? PC_TAG_BYTES
                      : unit == 'j' ? PC_TAG_JSON
                                    : PC_TAG_STR;

    *i += sized;
    if (!text && unit == 'z') {
        CHECK(view->tag == PC_TAG_NONE);
        return;
    }
    CHECK(view->tag == tag && view->length == size);
    CHECK(size == 0 || memcmp(view->data, text, size) == 0);
}

/* The next argument is this value. */
static void check_value(const pc_view *view, const arguments *args, unsigned *i)
{
    CHECK(*i < args->count);
    uint64_t slot = args->slots[*i];
    switch (args->kinds[*i]) {
    case 'i':
        CHECK(view->tag == PC_TAG_I64 && view->i64 == (int32_t)slot);
        break;
    case 'L':
    case 'n':
        CHECK(view->tag == PC_TAG_I64 && view->u64 == slot);
        break;
    case 'K':
        CHECK(view->tag == (slot > INT64_MAX ? PC_TAG_U64 : PC_TAG_I64) && view->u64 == slot);
        break;
    case 'd':
    case 'f':
        CHECK(view->tag == PC_TAG_F64 && view->u64 == slot);
        break;
    case 'p':
        CHECK(view->tag == PC_TAG_BOOL && view->boolean == ((int32_t)slot != 0));
        break;
    default:
        check_data(view, args, i);
    }
    ++*i;
}

static void check_message(pc_cursor cursor, const arguments *args, unsigned *i)
{
    pc_view view;

    while (pc_value_next(&cursor, &view) > 0) {
        if (view.tag == PC_TAG_NAME)
            continue;
        if (view.tag >= PC_TAG_LIST)
            check_message(view.contents, args, i);
        else
            check_value(&view, args, i);
    }
}

/* ---- records --------------------------------------------------------------------------------- */

/* What a record stores is what the format builds. */
static void check_record(const char *format, pc_cursor message, arguments *args)
{
    pc_record record;
    pc_view view;

    memset(&record, 0xff, sizeof record);
    if (!pc_record_compile(format, &record))
        return;
    CHECK(pc_record_matches(&record, format));
    CHECK(record.length == pc_record_length(record.shape) && record.length == args->count);
    uint64_t *words = malloc(record.length * sizeof *words);
    va_list list;
    CHECK(words);
    start(&list, args->slots);
    pc_record_store(&record, words, &list);
    for (unsigned i = 0; i < record.length; i++) {
        unsigned tag = pc_record_tag(record.shape, i);
        CHECK(pc_value_next(&message, &view) == 1);
        CHECK(view.tag == tag || (tag == PC_TAG_U64 && view.tag == PC_TAG_I64));
        CHECK(words[i] == (tag == PC_TAG_BOOL ? view.boolean : view.u64));
    }
    CHECK(pc_value_next(&message, &view) == 0);
    free(words);
}

static void check_other_format(const char *format, const char *other)
{
    pc_record record;

    if (pc_record_compile(format, &record))
        CHECK(pc_record_matches(&record, other) == (strcmp(format, other) == 0));
}

/* ---- results --------------------------------------------------------------------------------- */

#define UNTOUCHED UINT64_C(0xa5a5a5a5a5a5a5a5)

static void check_stored(arguments *args, const uint64_t cells[SLOTS], pc_cursor message, bool copy)
{
    for (unsigned i = 0; i < args->count; i++) {
        char unit = args->kinds[i];
        bool sized = i + 1 < args->count && args->kinds[i + 1] == '#';
        if (strchr("pif", unit))
            CHECK(cells[i] >> 32 == UNTOUCHED >> 32);
        if (unit == 'p')
            CHECK((uint32_t)cells[i] <= 1);
        if (!strchr("Oszjy", unit))
            continue;
        const uint8_t *data = (const uint8_t *)(uintptr_t)cells[i];
        CHECK(data || unit == 'z');
        if (data) {
            size_t size = sized ? cells[i + 1] : strlen((const char *)data);
            CHECK(data[size] == '\0');
            CHECK(copy || (data > message.at && data + size < message.end));
            CHECK(unit == 'O' || unit == 'y' || pc_utf8_valid((const char *)data, size));
            if (copy)
                free((void *)(uintptr_t)data);
        }
        i += sized;
    }
}

/* null: a bit for each pointer that is to be NULL. */
static int read_result(pc_cursor message, const char *format, uint16_t null, bool copy)
{
    arguments args = {.count = 0};
    uint64_t cells[SLOTS];
    va_list list;

    if (!scan(&args, format, true))
        return -E2BIG;
    for (unsigned i = 0; i < SLOTS; i++) {
        cells[i] = UNTOUCHED;
        args.slots[i] = null >> i & 1 ? 0 : (uintptr_t)&cells[i];
    }
    start(&list, args.slots);
    int code = pc_format_result(message, NULL, format, &list, copy);
    CHECK(code == 0 || code == PYCREW_ETYPE || code == -ERANGE || code == -EINVAL);
    if (code == 0)
        check_stored(&args, cells, message, copy);
    for (unsigned i = 0; i < SLOTS && code < 0; i++)
        CHECK(cells[i] == UNTOUCHED);
    return code;
}

/* Whether copied or not, the answer is the same. */
static void read_both(pc_cursor message, const char *format, uint16_t null)
{
    CHECK(read_result(message, format, null, false) == read_result(message, format, null, true));
}

/* ---- the target ------------------------------------------------------------------------------ */

/* An empty message is one too, and NULL is none. */
static pc_cursor built(const pc_builder *builder)
{
    static const uint64_t nothing;
    const uint8_t *at = builder->writer.data ? builder->writer.data : (const uint8_t *)&nothing;

    return (pc_cursor){at, at + builder->writer.size};
}

static void read_back(pc_builder *builder, const char *format, const char *rest, uint16_t null)
{
    pc_cursor message = built(builder);

    read_both(message, rest, null);
    if (builder->depth == 0 && !(builder->flags & PC_BUILD_NAMED) && builder->count == 1)
        read_both(message, format, null);
}

static void build(const char *format, const char *other, fuzz_input *in, uint8_t choice)
{
    arguments args = {.count = 0};
    pc_builder builder = {.writer = {.grow = choice & 1 ? grow_no_more : grow}};
    const char *rest = NULL;
    va_list list;

    if (!scan(&args, format, false))
        return;
    fill(&args, in);
    pc_build_start(&builder);
    start(&list, args.slots);
    int code = pc_format_build(&builder, format, &list, &rest);
    if (code == 0) {
        unsigned used = 0;
        pc_cursor message = built(&builder);
        CHECK(*rest == '\0' || *rest == '>');
        CHECK(pc_build_finish(&builder) == 0 && pc_value_check(message, true) == 0);
        check_message(message, &args, &used);
        CHECK(used == args.count);
        check_record(format, message, &args);
        read_back(&builder, format, *rest ? rest : other, choice & 2 ? choice >> 4 : 0);
    } else {
        pc_record record;
        CHECK(code == -EINVAL || (code == -E2BIG && (choice & 1)));
        CHECK(code == -E2BIG || !pc_record_compile(format, &record));
        CHECK(pc_build_finish(&builder) == code);
    }
    release(&args);
    free(builder.writer.data);
}

/* The next text up to a NUL or the end. */
static char *take_format(fuzz_input *in)
{
    const uint8_t *end = memchr(in->at, 0, fuzz_left(in));
    fuzz_input part = fuzz_take(in, end ? (size_t)(end - in->at) : FORMAT_MAX);
    char *format = malloc(fuzz_left(&part) + 1);

    CHECK(format);
    memcpy(format, part.at, fuzz_left(&part));
    format[fuzz_left(&part)] = '\0';
    fuzz_byte(in);
    return format;
}

/* A result by a format of the input, from a message of the input. */
static void read_any(const char *format, fuzz_input *in, uint8_t choice)
{
    size_t size = fuzz_left(in) & ~(size_t)7;
    uint8_t *copy = fuzz_copy(in->at, size);
    pc_cursor message = {copy, copy + size};

    read_both(message, format, choice & 2 ? choice >> 4 : 0);
    free(copy);
}

FUZZ_TARGET(formats)
{
    fuzz_input in = {data, data + size};

    if (size == 0)
        return 0;
    uint8_t choice = fuzz_byte(&in);
    char *format = take_format(&in), *other = take_format(&in);
    check_other_format(format, other);
    if (choice & 4)
        read_any(format, &in, choice);
    else
        build(format, other, &in, choice);
    free(format);
    free(other);
    return 0;
}

#else /* a calling convention that nobody has written start() for */

FUZZ_TARGET(formats)
{
    (void)data;
    (void)size;
    return 0;
}

#endif
