! What test-fortran.c runs: each function returns 0, or the number of the first check that fails.
module cases
    use, intrinsic :: iso_c_binding
    use pycrew
    implicit none
    private

    character(*), parameter :: source = &
        'import numpy as np'//new_line('')// &
        'def seen(a):'//new_line('')// &
        '    return f"{a.dtype} {a.shape} {a.flags.f_contiguous} {a.ravel(order=''F'').tolist()}"'//new_line('')// &
        'def negate(a):'//new_line('')// &
        '    np.negative(a, out=a)'//new_line('')// &
        'def columns():'//new_line('')// &
        '    return np.asfortranarray([[1., 2., 3.], [4., 5., 6.]])'//new_line('')// &
        'def rows():'//new_line('')// &
        '    return np.array([[1., 2., 3.], [4., 5., 6.]])'
    integer :: check ! counts them
    logical :: failed
    type(c_ptr) :: crew

contains

    subroutine begin()
        check = 0
        failed = .false.
        crew = c_null_ptr
    end subroutine

    subroutine expect(condition)
        logical, intent(in) :: condition
        if (.not. failed) check = check + 1
        if (.not. condition) failed = .true.
    end subroutine

    integer(c_int) function end_of_case()
        call pycrew_close(crew)
        end_of_case = merge(check, 0, failed)
    end function

    ! One call with one array, or none: it is to be released.
    function called(name, array) result(a_call)
        character(*), intent(in) :: name
        type(pycrew_array), intent(in), optional :: array
        type(c_ptr) :: a_call, func
        call expect(pycrew_function_source(crew, name, source, func) == 0)
        call expect(pycrew_prepare(crew, func, PYCREW_FOREVER, a_call) == 0)
        if (present(array)) call expect(pycrew_add(a_call, array) == 0)
        call expect(pycrew_submit(a_call) == 0)
        call expect(pycrew_wait(a_call, PYCREW_FOREVER) == 0)
    end function

    subroutine expect_seen(code, array, text)
        integer(c_int), intent(in) :: code
        type(pycrew_array), intent(in) :: array
        character(*), intent(in) :: text
        character(:), allocatable :: answer
        type(c_ptr) :: a_call
        call expect(code == 0)
        a_call = called('seen', array)
        call expect(pycrew_result(a_call, answer) == 0)
        call expect(answer == text)
        call pycrew_release(a_call)
    end subroutine

    ! ---- structs and constants: C compares ----

    integer(c_size_t) function at(address)
        type(c_ptr), intent(in) :: address
        at = transfer(address, at)
    end function

    subroutine options_layout(places) bind(c)
        integer(c_size_t), intent(out) :: places(31)
        type(pycrew_options), target :: x
        places = [at(c_loc(x%size)), at(c_loc(x%workers)), at(c_loc(x%python)), at(c_loc(x%path)), &
            at(c_loc(x%env)), at(c_loc(x%preload)), at(c_loc(x%init)), at(c_loc(x%exit)), at(c_loc(x%calls)), &
            at(c_loc(x%memory)), at(c_loc(x%queues)), at(c_loc(x%start_timeout_ns)), at(c_loc(x%timeout_ns)), &
            at(c_loc(x%grace_ns)), at(c_loc(x%retries)), at(c_loc(x%output)), at(c_loc(x%log)), &
            at(c_loc(x%log_data)), at(c_loc(x%export_threads)), at(c_loc(x%max_calls_per_worker)), &
            at(c_loc(x%max_worker_rss)), at(c_loc(x%cpus)), at(c_loc(x%nice)), at(c_loc(x%limit_memory)), &
            at(c_loc(x%limit_files)), at(c_loc(x%limit_core)), at(c_loc(x%limit_cpu_s)), at(c_loc(x%debug)), &
            at(c_loc(x%inflight)), at(c_loc(x%loop)), at(c_loc(x)) + c_sizeof(x)] - at(c_loc(x))
    end subroutine

    subroutine error_layout(places) bind(c)
        integer(c_size_t), intent(out) :: places(12)
        type(pycrew_error), target :: x
        places = [at(c_loc(x%size)), at(c_loc(x%code)), at(c_loc(x%function)), at(c_loc(x%type)), &
            at(c_loc(x%message)), at(c_loc(x%traceback)), at(c_loc(x%signal)), at(c_loc(x%exit_status)), &
            at(c_loc(x%may_have_run)), at(c_loc(x%out_of_memory)), at(c_loc(x%attempts)), &
            at(c_loc(x)) + c_sizeof(x)] - at(c_loc(x))
    end subroutine

    subroutine array_layout(places) bind(c)
        integer(c_size_t), intent(out) :: places(10)
        type(pycrew_array), target :: x
        places = [at(c_loc(x%size)), at(c_loc(x%data)), at(c_loc(x%dtype)), at(c_loc(x%itemsize)), &
            at(c_loc(x%ndim)), at(c_loc(x%shape)), at(c_loc(x%strides)), at(c_loc(x%format)), at(c_loc(x%flags)), &
            at(c_loc(x)) + c_sizeof(x)] - at(c_loc(x))
    end subroutine

    subroutine map_options_layout(places) bind(c)
        integer(c_size_t), intent(out) :: places(12)
        type(pycrew_map_options), target :: x
        places = [at(c_loc(x%size)), at(c_loc(x%flags)), at(c_loc(x%chunk)), at(c_loc(x%timeout_ns)), &
            at(c_loc(x%retries)), at(c_loc(x%on_error)), at(c_loc(x%fill)), at(c_loc(x%failed)), &
            at(c_loc(x%first_failed)), at(c_loc(x%progress)), at(c_loc(x%progress_data)), &
            at(c_loc(x)) + c_sizeof(x)] - at(c_loc(x))
    end subroutine

    ! The defaults that are not zero, too.
    subroutine constants(values) bind(c)
        integer(c_int64_t), intent(out) :: values(51)
        type(pycrew_map_options) :: options
        values = [integer(c_int64_t) :: PYCREW_FOREVER, options%retries, &
            PYCREW_ERAISED, PYCREW_EDIED, PYCREW_ETYPE, PYCREW_ESTART, PYCREW_EFORKED, &
            E2BIG, EAGAIN, ENOMEM, EINVAL, EMFILE, ERANGE, ETIME, ESHUTDOWN, ETIMEDOUT, EALREADY, ECANCELED, &
            PYCREW_LOG, PYCREW_INHERIT, PYCREW_DISCARD, &
            PYCREW_LOG_OUTPUT, PYCREW_LOG_WARNING, PYCREW_LOG_ERROR, &
            PYCREW_BOOL, PYCREW_I8, PYCREW_I16, PYCREW_I32, PYCREW_I64, PYCREW_U8, PYCREW_U16, PYCREW_U32, &
            PYCREW_U64, PYCREW_F16, PYCREW_F32, PYCREW_F64, PYCREW_C64, PYCREW_C128, PYCREW_OTHER, &
            PYCREW_MAX_DIMS, PYCREW_WRITABLE, PYCREW_COPY_BACK, PYCREW_STRIDED, PYCREW_FORTRAN, &
            PYCREW_LIST, PYCREW_TUPLE, PYCREW_DICT, PYCREW_MAP_WHOLE, PYCREW_MAP_OUT, &
            PYCREW_MAP_STOP, PYCREW_MAP_FILL]
    end subroutine

    ! ---- calls ----

    integer(c_int) function values_of_all_kinds() bind(c)
        type(c_ptr) :: func, a_call, data
        integer(c_size_t) :: size
        character(:), allocatable :: text
        character(3), target :: bytes = 'xyz'
        call begin()
        call expect(pycrew_open(crew) == 0)
        call expect(pycrew_function_get(crew, 'builtins:dict', func) == 0)
        call expect(pycrew_prepare(crew, func, PYCREW_FOREVER, a_call) == 0)
        call named('none', pycrew_add_none)
        call expect(pycrew_add_name(a_call, 'bools') == 0)
        call expect(pycrew_add_open(a_call, PYCREW_TUPLE) == 0)
        call expect(pycrew_add(a_call, .true.) == 0)
        call expect(pycrew_add(a_call, .false.) == 0)
        call expect(pycrew_add_close(a_call) == 0)
        call expect(pycrew_add_name(a_call, 'numbers') == 0)
        call expect(pycrew_add_open(a_call, PYCREW_LIST) == 0)
        call expect(pycrew_add(a_call, -7) == 0)
        call expect(pycrew_add(a_call, huge(1_c_int64_t)) == 0)
        call expect(pycrew_add_u64(a_call, -1_c_int64_t) == 0)
        call expect(pycrew_add_bigint(a_call, '-10000000000000000000') == 0)
        call expect(pycrew_add(a_call, 0.5) == 0)
        call expect(pycrew_add(a_call, 0.1_c_double) == 0)
        call expect(pycrew_add_close(a_call) == 0)
        call expect(pycrew_add_name(a_call, 'text') == 0)
        call expect(pycrew_add(a_call, ' two blanks  ') == 0)
        call expect(pycrew_add_name(a_call, 'json') == 0)
        call expect(pycrew_add_json(a_call, '{"a": [1, null]}') == 0)
        call expect(pycrew_set_json(a_call, .true.) == 0)
        call expect(pycrew_submit(a_call) == 0)
        call expect(pycrew_wait(a_call, PYCREW_FOREVER) == 0)
        call expect(.not. associated(pycrew_call_error(a_call)))
        call expect(pycrew_result_json(a_call, text) == 0)
        call expect(text == '{"none": null, "bools": [true, false], "numbers": [-7, 9223372036854775807, '// &
            '18446744073709551615, -75557863725914323419136, 0.5, 0.1], "text": " two blanks  ", '// &
            '"json": {"a": [1, null]}}')
        call pycrew_release(a_call)

        call expect(pycrew_function_get(crew, 'builtins:bytes', func) == 0)
        call expect(pycrew_prepare(crew, func, PYCREW_FOREVER, a_call) == 0)
        call expect(pycrew_add_bytes(a_call, c_loc(bytes), 3_c_size_t) == 0)
        call expect(pycrew_submit(a_call) == 0)
        call expect(pycrew_wait(a_call, PYCREW_FOREVER) == 0)
        call expect(pycrew_result_bytes(a_call, data, size) == 0)
        call expect(size == 3)
        call pycrew_release(a_call)
        values_of_all_kinds = end_of_case()
    contains
        subroutine named(keyword, add)
            character(*), intent(in) :: keyword
            procedure(pycrew_add_none) :: add
            call expect(pycrew_add_name(a_call, keyword) == 0)
            call expect(add(a_call) == 0)
        end subroutine
    end function

    integer(c_int) function results_of_all_kinds() bind(c)
        type(c_ptr) :: func, a_call
        character(:), allocatable :: text
        logical :: truth
        integer(c_int32_t) :: narrow
        integer(c_int64_t) :: wide
        real(c_double) :: number
        call begin()
        call expect(pycrew_open(crew) == 0)
        call expect(pycrew_function_source(crew, 'f', 'f = lambda text: eval(text)', func) == 0)
        a_call = evaluated('1 < 2')
        truth = .false.
        call expect(pycrew_result(a_call, truth) == 0 .and. truth)
        call pycrew_release(a_call)
        a_call = evaluated('-2**31')
        call expect(pycrew_result(a_call, narrow) == 0 .and. narrow == -huge(narrow) - 1)
        call pycrew_release(a_call)
        a_call = evaluated('2**31')
        call expect(pycrew_result(a_call, narrow) == -ERANGE .and. narrow == -huge(narrow) - 1)
        call expect(pycrew_result(a_call, wide) == 0 .and. wide == 2_c_int64_t**31)
        call expect(pycrew_result(a_call, text) == PYCREW_ETYPE)
        call pycrew_release(a_call)
        a_call = evaluated('2**64 - 1')
        call expect(pycrew_result_u64(a_call, wide) == 0 .and. wide == -1)
        call pycrew_release(a_call)
        a_call = evaluated('0.25')
        call expect(pycrew_result(a_call, number) == 0 .and. abs(number - 0.25) < tiny(number))
        call pycrew_release(a_call)
        a_call = evaluated('"a\0b "')
        call expect(pycrew_result(a_call, text) == 0)
        call expect(text == 'a'//c_null_char//'b ' .and. len(text) == 4)
        call pycrew_release(a_call)
        results_of_all_kinds = end_of_case()
    contains
        type(c_ptr) function evaluated(expression)
            character(*), intent(in) :: expression
            call expect(pycrew_prepare(crew, func, PYCREW_FOREVER, evaluated) == 0)
            call expect(pycrew_add(evaluated, expression) == 0)
            call expect(pycrew_submit(evaluated) == 0)
            call expect(pycrew_wait(evaluated, PYCREW_FOREVER) == 0)
        end function
    end function

    integer(c_int) function errors_with_their_texts() bind(c)
        type(c_ptr) :: func, a_call
        type(pycrew_error), pointer :: error
        call begin()
        call expect(pycrew_open(crew, preload=['no_such_module']) == PYCREW_ESTART)
        call expect(.not. c_associated(crew))
        call expect(index(pycrew_message(), 'no_such_module') > 0)
        call expect(pycrew_open(crew) == 0)
        call expect(pycrew_function_get(crew, 'no colon', func) == -EINVAL)
        call expect(.not. c_associated(func))
        call expect(pycrew_function_get(crew, 'operator:truediv', func) == 0)
        call expect(pycrew_prepare(crew, func, PYCREW_FOREVER, a_call) == 0)
        call expect(pycrew_add(a_call, 1) == 0)
        call expect(pycrew_add(a_call, 0) == 0)
        call expect(pycrew_submit(a_call) == 0)
        call expect(pycrew_wait(a_call, PYCREW_FOREVER) == PYCREW_ERAISED)
        call expect(pycrew_message() == 'division by zero')
        error => pycrew_call_error(a_call)
        call expect(associated(error))
        call expect(error%code == PYCREW_ERAISED .and. error%attempts == 1 .and. error%may_have_run)
        call expect(pycrew_text(error%function) == 'operator:truediv')
        call expect(pycrew_text(error%type) == 'ZeroDivisionError')
        call expect(index(pycrew_text(error%traceback), 'ZeroDivisionError') > 0)
        call pycrew_release(a_call)
        call expect(pycrew_strerror(PYCREW_EDIED) == 'the worker that ran the call died')
        call expect(pycrew_text(c_null_ptr) == '')
        call expect(index(pycrew_version(), '.') > 0)
        errors_with_their_texts = end_of_case()
    end function

    integer(c_int) function options_and_lists() bind(c)
        type(pycrew_options) :: options
        type(c_ptr) :: func, a_call
        character(:), allocatable :: text
        call begin()
        options%workers = 1
        options%timeout_ns = 50000000
        call expect(pycrew_open(crew, options, path=[character(20) :: '/first/with blank', '/second'], &
            env=['PYCREW_GIVEN=here it is'], preload=['json', 'math']) == 0)
        call expect(pycrew_function_source(crew, 'f', 'import os, sys'//new_line('')// &
            'f = lambda: str((sys.path[:2], os.environ["PYCREW_GIVEN"], "json" in sys.modules))', func) == 0)
        call expect(pycrew_prepare(crew, func, PYCREW_FOREVER, a_call) == 0)
        call expect(pycrew_set_timeout(a_call, PYCREW_FOREVER) == 0)
        call expect(pycrew_submit(a_call) == 0)
        call expect(pycrew_wait(a_call, PYCREW_FOREVER) == 0)
        call expect(pycrew_result(a_call, text) == 0)
        call expect(text == "(['/first/with blank', '/second'], 'here it is', True)")
        call pycrew_release(a_call)
        call expect(pycrew_function_get(crew, 'time:sleep', func) == 0)
        call expect(pycrew_prepare(crew, func, PYCREW_FOREVER, a_call) == 0)
        call expect(pycrew_add(a_call, 1000) == 0)
        call expect(pycrew_submit(a_call) == 0)
        call expect(pycrew_wait(a_call, PYCREW_FOREVER) == -ETIMEDOUT)
        call pycrew_release(a_call)
        options_and_lists = end_of_case()
    end function

    integer(c_int) function a_queue() bind(c)
        type(c_ptr) :: func, a_call, queue, calls(4)
        integer :: mark
        target :: mark
        call begin()
        call expect(pycrew_open(crew) == 0)
        call expect(pycrew_queue_open(crew, queue) == 0)
        call expect(pycrew_queue_fd(queue) >= 0)
        call expect(pycrew_function_get(crew, 'time:time', func) == 0)
        call expect(pycrew_prepare(crew, func, PYCREW_FOREVER, a_call) == 0)
        call expect(pycrew_set_queue(a_call, queue) == 0)
        call pycrew_set_data(a_call, c_loc(mark))
        call expect(pycrew_submit(a_call) == 0)
        call expect(pycrew_queue_reap(queue, calls, PYCREW_FOREVER) == 1)
        call expect(c_associated(calls(1), a_call))
        call expect(c_associated(pycrew_data(calls(1)), c_loc(mark)))
        call pycrew_release(calls(1))
        call pycrew_queue_close(queue)
        a_queue = end_of_case()
    end function

    ! ---- arrays ----

    integer(c_int) function arrays_of_all_kinds() bind(c)
        logical(c_bool), target :: bools(2) = [.true., .false.]
        integer(c_int8_t), target :: i8(2) = [1_c_int8_t, -2_c_int8_t]
        integer(c_int16_t), target :: i16(2) = [1_c_int16_t, -2_c_int16_t]
        integer(c_int32_t), target :: i32(2) = [1, -2]
        integer(c_int64_t), target :: i64(2) = [1_c_int64_t, -2_c_int64_t]
        real(c_float), target :: f32(2) = [0.5, -2.0]
        real(c_double), target :: f64(2, 3) = reshape(real([1, 2, 3, 4, 5, 6], c_double), [2, 3])
        complex(c_float_complex), target :: c64(1) = [(1.0, 2.0)]
        complex(c_double_complex), target :: c128(1, 1, 1) = (1.0, -2.0)
        real(c_double), target :: scalar = 7, none(2, 0)
        type(pycrew_array) :: a
        call begin()
        call expect(pycrew_open(crew) == 0)
        call expect_seen(pycrew_array_init(a, bools), a, 'bool (2,) True [True, False]')
        call expect_seen(pycrew_array_init(a, i8), a, 'int8 (2,) True [1, -2]')
        call expect_seen(pycrew_array_init(a, i16), a, 'int16 (2,) True [1, -2]')
        call expect_seen(pycrew_array_init(a, i32), a, 'int32 (2,) True [1, -2]')
        call expect_seen(pycrew_array_init(a, i64), a, 'int64 (2,) True [1, -2]')
        call expect_seen(pycrew_array_init(a, f32), a, 'float32 (2,) True [0.5, -2.0]')
        call expect_seen(pycrew_array_init(a, f64), a, &
            'float64 (2, 3) True [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]')
        call expect_seen(pycrew_array_init(a, f64(:, 2:)), a, 'float64 (2, 2) True [3.0, 4.0, 5.0, 6.0]')
        call expect_seen(pycrew_array_init(a, c64), a, 'complex64 (1,) True [(1+2j)]')
        call expect_seen(pycrew_array_init(a, c128), a, 'complex128 (1, 1, 1) True [(1-2j)]')
        call expect_seen(pycrew_array_init(a, scalar), a, 'float64 () True [7.0]')
        call expect_seen(pycrew_array_init(a, none), a, 'float64 (2, 0) True []')
        call expect_seen(pycrew_array_init(a, c_loc(f64), PYCREW_F64, [3_c_int64_t, 2_c_int64_t], 0), a, &
            'float64 (3, 2) False [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]')

        ! A section with gaps: its strides are the caller's. (Copied, it has none.)
        call expect(pycrew_array_init(a, f64(1, :)) == -EINVAL)
        call expect(pycrew_array_init(a, f64, PYCREW_STRIDED) == 0)
        a%data = c_loc(f64(2, 1))
        a%ndim = 1
        a%shape(1) = 3
        a%strides(1) = 2*8
        call expect_seen(0, a, 'float64 (3,) True [2.0, 4.0, 6.0]')
        arrays_of_all_kinds = end_of_case()
    end function

    integer(c_int) function arrays_written_in_place() bind(c)
        real(c_double), target :: elsewhere(2) = [1, 2]
        real(c_double), pointer :: x(:, :)
        type(pycrew_array) :: a
        call begin()
        call expect(pycrew_open(crew) == 0)
        call c_f_pointer(pycrew_alloc(crew, 6*c_sizeof(1.0_c_double)), x, [2, 3])
        x = reshape(real([1, 2, 3, 4, 5, 6], c_double), [2, 3])
        call expect(pycrew_array_init(a, x(:, 2:2), PYCREW_WRITABLE) == 0)
        call pycrew_release(called('negate', a))
        call expect(all(nint(x) == reshape([1, 2, -3, -4, 5, 6], [2, 3])))
        call pycrew_free(crew, c_loc(x))
        call expect(pycrew_array_init(a, elsewhere, PYCREW_WRITABLE + PYCREW_COPY_BACK) == 0)
        call pycrew_release(called('negate', a))
        call expect(all(nint(elsewhere) == [-1, -2]))
        arrays_written_in_place = end_of_case()
    end function

    integer(c_int) function arrays_that_come_back() bind(c)
        real(c_double), pointer :: x(:, :)
        type(c_ptr) :: a_call
        type(pycrew_array) :: a
        call begin()
        call expect(pycrew_open(crew) == 0)
        a_call = called('rows')
        call expect(pycrew_result(a_call, a) == 0)
        call expect(.not. pycrew_array_is(a, PYCREW_F64, 2))
        call pycrew_release(a_call)
        a_call = called('columns')
        call expect(pycrew_array_take(a_call, a) == 0)
        call pycrew_release(a_call)
        call expect(pycrew_array_is(a, PYCREW_F64, 2))
        call expect(.not. pycrew_array_is(a, PYCREW_F64, 1) .and. .not. pycrew_array_is(a, PYCREW_F32, 2))
        call c_f_pointer(a%data, x, a%shape(:2))
        call expect(all(nint(x) == reshape([1, 4, 2, 5, 3, 6], [2, 3])))
        call pycrew_array_drop(crew, a)
        call expect(.not. c_associated(a%data))
        arrays_that_come_back = end_of_case()
    end function

    integer(c_int) function a_map() bind(c)
        integer, parameter :: n = 1000
        integer(c_int64_t), target :: x(n), sums(n), first
        type(pycrew_array) :: inputs(2), output
        type(pycrew_map_options) :: options
        type(c_ptr) :: func
        integer :: i
        call begin()
        call expect(pycrew_open(crew) == 0)
        x = [(int(i, c_int64_t), i=1, n)]
        call expect(pycrew_array_init(inputs(1), x) == 0)
        inputs(2) = inputs(1)
        call expect(pycrew_array_init(output, sums) == 0)
        call expect(pycrew_function_get(crew, 'operator:add', func) == 0)
        call expect(pycrew_map(crew, func, inputs, output) == 0)
        call expect(all(sums == 2*x))

        x(17) = 0
        first = 0
        options%on_error = PYCREW_MAP_FILL
        options%first_failed = c_loc(first)
        call expect(pycrew_function_get(crew, 'operator:floordiv', func) == 0)
        call expect(pycrew_map(crew, func, inputs, output, options) == 1)
        call expect(first == 16 .and. sums(17) == 0 .and. count(sums == 1) == n - 1)
        a_map = end_of_case()
    end function
end module cases
