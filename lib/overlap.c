/* overlap: arrays of a call that share elements. */
#include "lib/overlap.h"

#include <errno.h>
#include <stdlib.h>

enum { NONE = UINT32_MAX, SHIFTS_MAX = 4 };

/* Further than anything in memory: sums of a few such are no overflow. */
#define FAR ((int64_t)1 << 58)

typedef struct pc_step {
    int64_t stride; /* positive */
    int64_t width;  /* from the first element to the last in this dimension: (n - 1) * stride */
} pc_step;

/* An array, its strides made positive: those without an effect are left out. */
typedef struct pc_layout {
    int64_t itemsize;
    int count;
    pc_step steps[]; /* the longest stride first */
} pc_layout;

typedef struct pc_node {
    uintptr_t low, high, reach; /* reach: the highest high of the subtree */
    uint32_t left, right, priority;
    pc_layout *layout;
} pc_node;

typedef struct pc_tree {
    pc_node *nodes;
    uint32_t count, capacity, root;
} pc_tree;

struct pc_claims {
    pc_tree writable, others;
    uint32_t random;
};

/* ---- two arrays ---- */

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

/* Of the steps from `first` on: how far they lead, and what all of them are multiples of. */
static int64_t width_from(const pc_layout *layout, int first)
{
    int64_t width = layout->itemsize;

    for (int i = first; i < layout->count; i++)
        width += layout->steps[i].width;
    return width;
}

static int64_t gcd_from(const pc_layout *layout, int first, int64_t of)
{
    for (int i = first; i < layout->count; i++)
        of = gcd(of, layout->steps[i].stride);
    return of;
}

/* Whether no inner elements of both meet if b's begin shift bytes behind a's. They are at multiples
 * of `every`, each in its own phase; 0: they are a single one each. */
static bool inner_are_apart(const pc_layout *a, const pc_layout *b, int64_t every, int64_t shift)
{
    int64_t phase;

    if (every == 0)
        return shift >= a->itemsize || -shift >= b->itemsize;
    phase = shift % every;
    if (phase < 0)
        phase += every;
    return phase >= a->itemsize && phase + b->itemsize <= every;
}

/* The same for all shifts that the outer steps can add, multiples of outer (0: none): of those, few
 * make the inner ranges meet. */
static bool are_apart_inside(const pc_layout *a, int a_first, const pc_layout *b, int b_first,
                             int64_t outer, int64_t shift)
{
    int64_t a_width = width_from(a, a_first), b_width = width_from(b, b_first);
    int64_t every = gcd_from(b, b_first, gcd_from(a, a_first, 0));

    if (outer == 0)
        return inner_are_apart(a, b, every, shift);
    if ((a_width + b_width) / outer > SHIFTS_MAX)
        return false;
    shift = (shift + b_width - 1) % outer; /* the lowest that is more than -b_width: */
    shift += (shift < 0 ? outer : 0) - b_width + 1;
    for (; shift < a_width; shift += outer)
        if (!inner_are_apart(a, b, every, shift))
            return false;
    return true;
}

/* Whether they share no byte, for sure. b begins shift bytes behind a.
 *
 * Were there a byte of both, then for each length: the steps at least that long lead to a multiple
 * of their greatest common divisor, and the shorter ones of both, from there, to that byte. So it
 * is enough that for one length this cannot be: with no step taken as long it is the test of ranges
 * and phases, with the rows of two halves of a matrix that of their columns' ranges. */
static bool are_apart(const pc_layout *a, const pc_layout *b, int64_t shift)
{
    int64_t outer = 0;
    int i = 0, j = 0;

    if (width_from(a, 0) > FAR || width_from(b, 0) > FAR || shift > FAR || shift < -FAR)
        return false;
    while (!are_apart_inside(a, i, b, j, outer, shift)) {
        int64_t longest = i < a->count ? a->steps[i].stride : 0;

        if (j < b->count && b->steps[j].stride > longest)
            longest = b->steps[j].stride;
        if (longest == 0)
            return false;
        outer = gcd(outer, longest);
        while (i < a->count && a->steps[i].stride == longest)
            i++;
        while (j < b->count && b->steps[j].stride == longest)
            j++;
    }
    return true;
}

static void insert_step(pc_layout *layout, int64_t stride, int64_t count)
{
    int place = layout->count++;

    for (; place > 0 && layout->steps[place - 1].stride < stride; place--)
        layout->steps[place] = layout->steps[place - 1];
    layout->steps[place] = (pc_step){stride, (count - 1) * stride};
}

/* An array without gaps is one element. */
static pc_layout *layout_of(const pc_array *array)
{
    bool whole = (uint64_t)(array->high - array->low) == array->bytes && !pc_array_repeats(array);
    pc_layout *layout =
        malloc(sizeof *layout + (whole ? 0 : (size_t)array->ndim) * sizeof layout->steps[0]);

    if (layout == NULL)
        return NULL;
    layout->count = 0;
    layout->itemsize = whole ? array->high - array->low : (int64_t)array->itemsize;
    for (int i = 0; !whole && i < array->ndim; i++)
        if (array->shape[i] > 1 && array->strides[i] != 0)
            insert_step(layout, array->strides[i] < 0 ? -array->strides[i] : array->strides[i],
                        array->shape[i]);
    return layout;
}

/* ---- the trees ---- */

static uintptr_t reach_of(const pc_tree *tree, uint32_t node)
{
    return node == NONE ? 0 : tree->nodes[node].reach;
}

static void set_reach(const pc_tree *tree, uint32_t node)
{
    pc_node *at = &tree->nodes[node];
    uintptr_t left = reach_of(tree, at->left), right = reach_of(tree, at->right);

    at->reach = at->high;
    if (left > at->reach)
        at->reach = left;
    if (right > at->reach)
        at->reach = right;
}

/* Those of the subtree that begin before low, and the others. */
static void split(const pc_tree *tree, uint32_t node, uintptr_t low, uint32_t *before,
                  uint32_t *behind)
{
    if (node == NONE) {
        *before = *behind = NONE;
        return;
    }
    if (tree->nodes[node].low < low) {
        *before = node;
        split(tree, tree->nodes[node].right, low, &tree->nodes[node].right, behind);
    } else {
        *behind = node;
        split(tree, tree->nodes[node].left, low, before, &tree->nodes[node].left);
    }
    set_reach(tree, node);
}

/* Its depth is some 2 log n: priorities are random. */
static void insert(pc_tree *tree, uint32_t node)
{
    pc_node *made = &tree->nodes[node];
    uint32_t *at = &tree->root;

    while (*at != NONE && tree->nodes[*at].priority >= made->priority) {
        pc_node *passed = &tree->nodes[*at];

        if (passed->reach < made->high)
            passed->reach = made->high;
        at = passed->low < made->low ? &passed->right : &passed->left;
    }
    split(tree, *at, made->low, &made->left, &made->right);
    *at = node;
    set_reach(tree, node);
}

/* Whether one of the subtree shares elements with the new one. */
static bool meets(const pc_tree *tree, uint32_t node, const pc_node *made)
{
    const pc_node *at;

    if (node == NONE || tree->nodes[node].reach <= made->low)
        return false;
    at = &tree->nodes[node];
    if (meets(tree, at->left, made))
        return true;
    if (at->low >= made->high)
        return false;
    if (at->high > made->low &&
        !are_apart(at->layout, made->layout, (int64_t)(made->low - at->low)))
        return true;
    return meets(tree, at->right, made);
}

static bool make_room(pc_tree *tree)
{
    uint32_t capacity = 2 * tree->capacity + 4;
    pc_node *grown;

    if (tree->count < tree->capacity)
        return true;
    grown = realloc(tree->nodes, capacity * sizeof grown[0]);
    if (grown == NULL)
        return false;
    tree->nodes = grown;
    tree->capacity = capacity;
    return true;
}

static pc_claims *claims_of(pc_claims **claims)
{
    if (*claims == NULL)
        *claims = calloc(1, sizeof **claims);
    if (*claims != NULL && (*claims)->random == 0) {
        (*claims)->random = 1;
        (*claims)->writable.root = (*claims)->others.root = NONE;
    }
    return *claims;
}

/* xorshift: never 0. */
static uint32_t next_random(pc_claims *claims)
{
    claims->random ^= claims->random << 13;
    claims->random ^= claims->random >> 17;
    claims->random ^= claims->random << 5;
    return claims->random;
}

int pc_claims_add(pc_claims **space, const pc_array *array, uintptr_t data, bool writable)
{
    pc_claims *claims = claims_of(space);
    pc_tree *tree = claims == NULL ? NULL : writable ? &claims->writable : &claims->others;
    pc_node made = {.low = data + (uintptr_t)array->low, .high = data + (uintptr_t)array->high};

    if (tree == NULL || !make_room(tree) || (made.layout = layout_of(array)) == NULL)
        return -ENOMEM;
    if (meets(&claims->writable, claims->writable.root, &made) ||
        (writable && meets(&claims->others, claims->others.root, &made))) {
        free(made.layout);
        return 1;
    }
    made.left = made.right = NONE;
    made.priority = next_random(claims);
    tree->nodes[tree->count] = made;
    insert(tree, tree->count++);
    return 0;
}

static void free_tree(const pc_tree *tree)
{
    for (uint32_t i = 0; i < tree->count; i++)
        free(tree->nodes[i].layout);
    free(tree->nodes);
}

void pc_claims_free(pc_claims *claims)
{
    if (claims == NULL)
        return;
    free_tree(&claims->writable);
    free_tree(&claims->others);
    free(claims);
}
