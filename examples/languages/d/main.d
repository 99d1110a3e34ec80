/* Python functions from D. The compiler itself reads pycrew.h (ImportC), as the C preprocessor leaves it:
 *
 *     echo '#include <pycrew.h>' | cc -E -P -D'__attribute__(x)=' -x c - -o pycrew.c
 *     gdc -I. main.d -lpycrew
 */
import pycrew;
import std.conv : text, to;
import std.parallelism : parallel;
import std.stdio : writeln;
import std.string : fromStringz, toStringz;
import std.traits;

enum long FOREVER = -1; // PYCREW_FOREVER is a macro, which ImportC does not see
alias Function = Parameters!pycrew_prepare[1];

/* Its texts are D's: C's live until the thread's next function, or the call's release. */
class PythonError : Exception
{
    const int code, signal;
    const bool mayHaveRun;
    const string type, traceback;

    this(const pycrew_error* error)
    {
        type = error.type.fromStringz.idup;
        traceback = error.traceback.fromStringz.idup;
        code = error.code;
        signal = error.signal;
        mayHaveRun = error.may_have_run;
        super((type.length ? type ~ ": " : "") ~ error.message.fromStringz.idup);
    }
}

void check(int rc)
{
    if (rc < 0)
        throw new PythonError(pycrew_last_error());
}

/* Structs, not classes: a class's destructor runs when the collector likes, perhaps after the crew's. */
struct Crew
{
    private pycrew_crew* raw;

    this(string folder)
    {
        auto path = [folder.toStringz, null];
        auto options = pycrew_options(pycrew_options.sizeof);
        options.path = cast(typeof(options.path)) path.ptr;
        check(pycrew_open(&raw, &options)); // copies all of it
    }

    @disable this(this);

    ~this()
    {
        pycrew_close(raw);
    }

    Call prepare(string name)
    {
        Function func;
        check(pycrew_function_get(raw, name.toStringz, &func));
        return prepare(func);
    }

    Call prepare(Function func)
    {
        Call call;
        check(pycrew_prepare(raw, func, FOREVER, &call.raw));
        return call;
    }

    R run(R, F, A...)(F func, A arguments)
    {
        auto call = prepare(func);
        static foreach (argument; arguments)
            call.add(argument);
        check(pycrew_submit(call.raw));
        check(pycrew_wait(call.raw, FOREVER));
        static if (!is(R == void))
            return call.result!R;
    }
}

struct Call
{
    private pycrew_call* raw;

    @disable this(this);

    ~this()
    {
        pycrew_release(raw);
    }

    void add(T)(T value)
    {
        static if (isBoolean!T)
            check(pycrew_add_bool(raw, value));
        else static if (isUnsigned!T)
            check(pycrew_add_u64(raw, value));
        else static if (isIntegral!T)
            check(pycrew_add_i64(raw, value));
        else static if (isFloatingPoint!T)
            check(pycrew_add_f64(raw, value));
        else static if (is(T : const(char)[]))
            check(pycrew_add_str(raw, value.ptr, value.length));
        else
            static assert(0, "no Python type for " ~ T.stringof);
    }

    R result(R)()
    {
        static if (isIntegral!R)
        {
            long value;
            check(pycrew_result_i64(raw, &value));
            return value.to!R; // throws where it is out of range
        }
        else static if (isFloatingPoint!R)
        {
            double value;
            check(pycrew_result_f64(raw, &value));
            return value;
        }
        else static if (is(R == string))
        {
            const(char)* at;
            size_t size;
            check(pycrew_result_str(raw, &at, &size));
            return at[0 .. size].idup; // it lives until the release
        }
        else
            static assert(0, "no way to read a " ~ R.stringof);
    }
}

/* C's functions neither throw nor allocate, but this ImportC does not say so. */
enum plain(alias f) = cast(SetFunctionAttributes!(typeof(&f), "C",
        functionAttributes!(typeof(&f)) | FunctionAttribute.nothrow_ | FunctionAttribute.nogc))&f;

/* Python calls it, on a thread of the crew's, of which D's runtime does not know: so it may neither allocate from
 * the collector nor throw, which the compiler sees to. (What needs more calls thread_attachThis first.) */
extern (C) int twice(void*, pycrew_host_call* call) nothrow @nogc
{
    long number;
    const rc = plain!pycrew_value_i64(plain!pycrew_host_argument(call, 0), &number);
    return rc < 0 ? rc : plain!pycrew_host_return_i64(call, 2 * number);
}

void main(string[] arguments)
{
    auto crew = Crew(arguments[1]);

    writeln("add(3, 5) = ", crew.run!int("math_ops:add", 3, 5));
    writeln("add(0.5, 1) = ", crew.run!double("math_ops:add", 0.5, 1));
    writeln("add(D, Python) = ", crew.run!string("math_ops:add", "D, ", "Python"));
    try
        crew.run!int("math_ops:divide", 1, 0);
    catch (PythonError error)
        writeln("divide(1, 0): ", error.msg);
    try
        crew.run!void("math_ops:crash");
    catch (PythonError error)
        writeln("crash() lost its worker to signal ", error.signal, error.mayHaveRun ? ", in mid-call" : "");

    Function ask;
    check(pycrew_export(crew.raw, "twice", &twice, null));
    check(pycrew_function_source(crew.raw, "ask", "import pycrew\ndef ask(n):\n    return pycrew.host.twice(n)\n", &ask));
    writeln("ask(21) = ", crew.run!int(ask, 21));

    auto sums = new long[1000];
    foreach (i, ref sum; sums.parallel) // a crew is for all threads
        sum = crew.run!long("math_ops:add", i, 1);
    long total;
    foreach (sum; sums)
        total += sum;
    writeln("1000 calls: ", total);
}
