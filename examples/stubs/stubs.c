/* stubs: functions of shapes.py with their own types; shapes.h was written by pycrew stubs. */
#include <stdio.h>

#include "shapes.h"

static int show(pycrew_crew *crew)
{
    const shapes_Point corners[] = {{0, 0}, {4, 0}, {4, 3}};
    shapes_Point at;
    pycrew_call *held, *points;
    const char *text;
    int rc = shapes_centre(crew, corners, 3, &at);
    if (rc == 0)
        rc = shapes_describe(crew, &at, 1, &text, &held);
    if (rc < 0)
        return rc;
    printf("the centre is %s\n", text);
    pycrew_release(held); /* and text is gone */
    rc = shapes_line(crew, &corners[1], &at, 2, &points);
    if (rc < 0)
        return rc;
    while ((rc = shapes_line_next(points, PYCREW_FOREVER, &at)) == 1)
        printf("%.2f %.2f\n", at.x, at.y);
    pycrew_release(points);
    return rc < 0 ? rc : shapes_centre(crew, NULL, 0, &at);
}

int main(void)
{
    const char *path[] = {SHAPES_FOLDER, NULL};
    pycrew_crew *crew = NULL;
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.path = path;
    if (pycrew_open(&crew, &options) < 0 || show(crew) < 0)
        printf("%s: %s\n", pycrew_last_error()->type, pycrew_last_error()->message);
    pycrew_close(crew);
    return 0;
}
