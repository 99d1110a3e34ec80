! pycrew for Fortran 2018: Python functions, in parallel worker processes, from Fortran.
!
!     type(c_ptr) :: crew, func, a_call
!     real(c_double) :: length
!     if (pycrew_open(crew) < 0) error stop pycrew_message()
!     if (pycrew_function_get(crew, 'math:hypot', func) < 0) error stop pycrew_message()
!     if (pycrew_prepare(crew, func, PYCREW_FOREVER, a_call) < 0) error stop pycrew_message()
!     if (pycrew_add(a_call, 3) < 0) error stop pycrew_message()
!     if (pycrew_add(a_call, 4) < 0) error stop pycrew_message()
!     if (pycrew_submit(a_call) < 0) error stop pycrew_message()
!     if (pycrew_wait(a_call, PYCREW_FOREVER) < 0) error stop pycrew_message()
!     if (pycrew_result(a_call, length) < 0) error stop pycrew_message()
!     call pycrew_release(a_call)
!     call pycrew_close(crew)
!
! Compiled with the program (a .mod file is good for one version of one compiler):
!
!     gfortran $(pkg-config --variable=fortran pycrew) main.f90 $(pkg-config --libs pycrew)
!
! The functions without varargs of pycrew.h, under the same names and with the same codes; what they
! do is said there, and in the manual's pages. What is different:
!
! Handles    Crews, functions, calls and queues are type(c_ptr). One that could not be made is c_null_ptr,
!            which close and release take.
! Text       character(*) goes in, character(:), allocatable comes out. UTF-8. Words of the lists of
!            pycrew_open lose the blanks they end with; no other text does.
! Structs    The size is set by the functions that take one.
! Unsigned   Is integer(c_int64_t) or integer(c_size_t) of the same bits.
! Arrays     pycrew_array_init(array, data) describes a Fortran array in place, first index fastest,
!            any rank: logical(c_bool), integer of 8 to 64 bits, real and complex of both precisions.
!            To be declared with the attribute target, because it is used after the call. Sections with
!            gaps are -EINVAL, which the last error knows nothing of: give the whole array, with
!            PYCREW_STRIDED, and set data, shape and strides of the pycrew_array.
module pycrew
    use, intrinsic :: iso_c_binding
    implicit none
    private

    public :: pycrew_options, pycrew_error, pycrew_array, pycrew_map_options
    public :: pycrew_version, pycrew_strerror, pycrew_last_error, pycrew_call_error, pycrew_message, pycrew_text
    public :: pycrew_open, pycrew_drain, pycrew_close
    public :: pycrew_alloc, pycrew_free
    public :: pycrew_array_init, pycrew_array_take, pycrew_array_drop, pycrew_array_is
    public :: pycrew_function_get, pycrew_function_source
    public :: pycrew_prepare, pycrew_submit, pycrew_wait, pycrew_cancel, pycrew_release
    public :: pycrew_add, pycrew_add_none, pycrew_add_bool, pycrew_add_i64, pycrew_add_u64, pycrew_add_f64, &
        pycrew_add_bigint, pycrew_add_str, pycrew_add_bytes, pycrew_add_json, pycrew_add_object, &
        pycrew_add_array, pycrew_add_name, pycrew_add_open, pycrew_add_close
    public :: pycrew_set_timeout, pycrew_set_retries, pycrew_set_json, pycrew_set_queue, pycrew_set_data, pycrew_data
    public :: pycrew_result, pycrew_result_bool, pycrew_result_i64, pycrew_result_u64, pycrew_result_f64, &
        pycrew_result_str, pycrew_result_bytes, pycrew_result_json, pycrew_result_array
    public :: pycrew_queue_open, pycrew_queue_fd, pycrew_queue_reap, pycrew_queue_wake, pycrew_queue_close
    public :: pycrew_map

    integer(c_int64_t), parameter, public :: PYCREW_FOREVER = -1

    ! Codes beyond errno, ...
    integer(c_int), parameter, public :: &
        PYCREW_ERAISED = -2001, PYCREW_EDIED = -2002, PYCREW_ETYPE = -2003, PYCREW_ESTART = -2004, &
        PYCREW_EFORKED = -2005
    ! ... and those of errno that pycrew returns, negated: Fortran has no errno.h. Linux's.
    integer(c_int), parameter, public :: &
        E2BIG = 7, EAGAIN = 11, ENOMEM = 12, EINVAL = 22, EMFILE = 24, ERANGE = 34, ETIME = 62, &
        ESHUTDOWN = 108, ETIMEDOUT = 110, EALREADY = 114, ECANCELED = 125

    integer(c_int), parameter, public :: & ! pycrew_options%output
        PYCREW_LOG = 0, PYCREW_INHERIT = 1, PYCREW_DISCARD = 2
    integer(c_int), parameter, public :: & ! levels given to log
        PYCREW_LOG_OUTPUT = 0, PYCREW_LOG_WARNING = 1, PYCREW_LOG_ERROR = 2
    integer(c_int), parameter, public :: & ! pycrew_array%dtype
        PYCREW_BOOL = 1, PYCREW_I8 = 2, PYCREW_I16 = 3, PYCREW_I32 = 4, PYCREW_I64 = 5, PYCREW_U8 = 6, &
        PYCREW_U16 = 7, PYCREW_U32 = 8, PYCREW_U64 = 9, PYCREW_F16 = 10, PYCREW_F32 = 11, PYCREW_F64 = 12, &
        PYCREW_C64 = 13, PYCREW_C128 = 14, PYCREW_OTHER = 15
    integer(c_int), parameter, public :: PYCREW_MAX_DIMS = 32
    integer(c_int), parameter, public :: & ! pycrew_array%flags
        PYCREW_WRITABLE = 1, PYCREW_COPY_BACK = 2, PYCREW_STRIDED = 4, PYCREW_FORTRAN = 8
    integer(c_int), parameter, public :: & ! pycrew_add_open
        PYCREW_LIST = 1, PYCREW_TUPLE = 2, PYCREW_DICT = 3
    integer(c_int), parameter, public :: & ! pycrew_map_options%flags
        PYCREW_MAP_WHOLE = 1, PYCREW_MAP_OUT = 2
    integer(c_int), parameter, public :: & ! pycrew_map_options%on_error
        PYCREW_MAP_STOP = 0, PYCREW_MAP_FILL = 1

    ! ---- the structs of pycrew.h; tests/fortran compares their offsets with C's ----

    type, bind(c) :: pycrew_options
        integer(c_size_t) :: size = 0
        integer(c_int) :: workers = 0
        type(c_ptr) :: python = c_null_ptr
        type(c_ptr) :: path = c_null_ptr
        type(c_ptr) :: env = c_null_ptr
        type(c_ptr) :: preload = c_null_ptr
        type(c_ptr) :: init = c_null_ptr
        type(c_ptr) :: exit = c_null_ptr
        integer(c_int) :: calls = 0
        integer(c_size_t) :: memory = 0
        integer(c_int) :: queues = 0
        integer(c_int64_t) :: start_timeout_ns = 0
        integer(c_int64_t) :: timeout_ns = 0
        integer(c_int64_t) :: grace_ns = 0
        integer(c_int) :: retries = 0
        integer(c_int) :: output = PYCREW_LOG
        type(c_funptr) :: log = c_null_funptr
        type(c_ptr) :: log_data = c_null_ptr
        integer(c_int) :: export_threads = 0
        integer(c_int64_t) :: max_calls_per_worker = 0
        integer(c_size_t) :: max_worker_rss = 0
        type(c_ptr) :: cpus = c_null_ptr
        integer(c_int) :: nice = 0
        integer(c_int64_t) :: limit_memory = 0
        integer(c_int64_t) :: limit_files = 0
        integer(c_int64_t) :: limit_core = 0
        integer(c_int64_t) :: limit_cpu_s = 0
        logical(c_bool) :: debug = .false.
        integer(c_int) :: inflight = 0
        type(c_ptr) :: loop = c_null_ptr
        type(c_ptr) :: engine = c_null_ptr
        type(c_ptr) :: engine_options = c_null_ptr
        type(c_ptr) :: trace = c_null_ptr
    end type

    type, bind(c) :: pycrew_error
        integer(c_size_t) :: size = 0
        integer(c_int) :: code = 0
        type(c_ptr) :: function = c_null_ptr ! texts: pycrew_text(error%function)
        type(c_ptr) :: type = c_null_ptr
        type(c_ptr) :: message = c_null_ptr
        type(c_ptr) :: traceback = c_null_ptr
        integer(c_int) :: signal = 0
        integer(c_int) :: exit_status = 0
        logical(c_bool) :: may_have_run = .false.
        logical(c_bool) :: out_of_memory = .false.
        integer(c_int) :: attempts = 0
    end type

    type, bind(c) :: pycrew_array
        integer(c_size_t) :: size = 0
        type(c_ptr) :: data = c_null_ptr
        integer(c_int) :: dtype = 0
        integer(c_size_t) :: itemsize = 0
        integer(c_int) :: ndim = 0
        integer(c_int64_t) :: shape(PYCREW_MAX_DIMS) = 0
        integer(c_int64_t) :: strides(PYCREW_MAX_DIMS) = 0
        type(c_ptr) :: format = c_null_ptr
        integer(c_int) :: flags = 0
    end type

    type, bind(c) :: pycrew_map_options
        integer(c_size_t) :: size = 0
        integer(c_int) :: flags = 0
        integer(c_int) :: chunk = 0
        integer(c_int64_t) :: timeout_ns = 0
        integer(c_int) :: retries = -1
        integer(c_int) :: on_error = PYCREW_MAP_STOP
        type(c_ptr) :: fill = c_null_ptr         ! one element of the output's type
        type(c_ptr) :: failed = c_null_ptr       ! integer(c_int), one for each element
        type(c_ptr) :: first_failed = c_null_ptr ! integer(c_int64_t), counting from 0
        type(c_funptr) :: progress = c_null_funptr
        type(c_ptr) :: progress_data = c_null_ptr
    end type

    ! The words of a list as C has them: NUL-ended, and behind the last pointer to one a null pointer.
    type :: word_list
        character(kind=c_char), allocatable :: letters(:, :) ! one word a column
        type(c_ptr), allocatable :: words(:)
    end type

    interface pycrew_array_init
        procedure :: init_bool, init_i8, init_i16, init_i32, init_i64, init_f32, init_f64, init_c64, init_c128
        procedure :: init_at
    end interface

    ! A value of any of these types, as the next argument.
    interface pycrew_add
        procedure :: pycrew_add_bool, add_i32, pycrew_add_i64, add_f32, pycrew_add_f64, pycrew_add_str
        procedure :: pycrew_add_array
    end interface

    ! The result, if it is of that type.
    interface pycrew_result
        procedure :: pycrew_result_bool, result_i32, pycrew_result_i64, pycrew_result_f64, pycrew_result_str
        procedure :: pycrew_result_array
    end interface

    ! ---- what needs no more than C's own interface ----
    !
    ! Structs with addresses inside are targets: gfortran would else take it that C does not write to what
    ! is there, neither in the call nor after it.

    interface
        integer(c_int) function pycrew_drain(crew, timeout_ns) bind(c)
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: crew
            integer(c_int64_t), value :: timeout_ns
        end function

        subroutine pycrew_close(crew) bind(c)
            import :: c_ptr
            type(c_ptr), value :: crew
        end subroutine

        ! To be made a Fortran array by c_f_pointer. c_null_ptr: see the last error.
        type(c_ptr) function pycrew_alloc(crew, size) bind(c)
            import :: c_ptr, c_size_t
            type(c_ptr), value :: crew
            integer(c_size_t), value :: size
        end function

        subroutine pycrew_free(crew, memory) bind(c)
            import :: c_ptr
            type(c_ptr), value :: crew, memory
        end subroutine

        subroutine pycrew_array_drop(crew, array) bind(c)
            import :: c_ptr, pycrew_array
            type(c_ptr), value :: crew
            type(pycrew_array), intent(inout) :: array
        end subroutine

        integer(c_int) function pycrew_submit(a_call) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: a_call
        end function

        integer(c_int) function pycrew_wait(a_call, timeout_ns) bind(c)
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: a_call
            integer(c_int64_t), value :: timeout_ns
        end function

        integer(c_int) function pycrew_cancel(a_call) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: a_call
        end function

        subroutine pycrew_release(a_call) bind(c)
            import :: c_ptr
            type(c_ptr), value :: a_call
        end subroutine

        integer(c_int) function pycrew_add_none(a_call) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: a_call
        end function

        integer(c_int) function pycrew_add_i64(a_call, value) bind(c)
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: a_call
            integer(c_int64_t), value :: value
        end function

        integer(c_int) function pycrew_add_u64(a_call, value) bind(c)
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: a_call
            integer(c_int64_t), value :: value
        end function

        integer(c_int) function pycrew_add_f64(a_call, value) bind(c)
            import :: c_int, c_ptr, c_double
            type(c_ptr), value :: a_call
            real(c_double), value :: value
        end function

        integer(c_int) function pycrew_add_bytes(a_call, data, size) bind(c)
            import :: c_int, c_ptr, c_size_t
            type(c_ptr), value :: a_call, data
            integer(c_size_t), value :: size
        end function

        integer(c_int) function pycrew_add_object(a_call, pickle, size) bind(c)
            import :: c_int, c_ptr, c_size_t
            type(c_ptr), value :: a_call, pickle
            integer(c_size_t), value :: size
        end function

        integer(c_int) function pycrew_add_array(a_call, array) bind(c)
            import :: c_int, c_ptr, pycrew_array
            type(c_ptr), value :: a_call
            type(pycrew_array), intent(in), target :: array
        end function

        integer(c_int) function pycrew_add_open(a_call, kind) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: a_call
            integer(c_int), value :: kind
        end function

        integer(c_int) function pycrew_add_close(a_call) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: a_call
        end function

        integer(c_int) function pycrew_set_timeout(a_call, timeout_ns) bind(c)
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: a_call
            integer(c_int64_t), value :: timeout_ns
        end function

        integer(c_int) function pycrew_set_retries(a_call, retries) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: a_call
            integer(c_int), value :: retries
        end function

        integer(c_int) function pycrew_set_queue(a_call, queue) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: a_call, queue
        end function

        subroutine pycrew_set_data(a_call, data) bind(c)
            import :: c_ptr
            type(c_ptr), value :: a_call, data
        end subroutine

        type(c_ptr) function pycrew_data(a_call) bind(c)
            import :: c_ptr
            type(c_ptr), value :: a_call
        end function

        integer(c_int) function pycrew_result_i64(a_call, value) bind(c)
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: a_call
            integer(c_int64_t), intent(inout) :: value
        end function

        integer(c_int) function pycrew_result_u64(a_call, value) bind(c)
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: a_call
            integer(c_int64_t), intent(inout) :: value
        end function

        integer(c_int) function pycrew_result_f64(a_call, value) bind(c)
            import :: c_int, c_ptr, c_double
            type(c_ptr), value :: a_call
            real(c_double), intent(inout) :: value
        end function

        ! Until the call's release.
        integer(c_int) function pycrew_result_bytes(a_call, data, size) bind(c)
            import :: c_int, c_ptr, c_size_t
            type(c_ptr), value :: a_call
            type(c_ptr), intent(inout) :: data
            integer(c_size_t), intent(inout) :: size
        end function

        integer(c_int) function pycrew_queue_fd(queue) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: queue
        end function

        integer(c_int) function pycrew_queue_wake(queue) bind(c)
            import :: c_int, c_ptr
            type(c_ptr), value :: queue
        end function

        subroutine pycrew_queue_close(queue) bind(c)
            import :: c_ptr
            type(c_ptr), value :: queue
        end subroutine
    end interface

    ! ---- C's side of the functions below ----

    interface
        type(c_ptr) function c_version() bind(c, name='pycrew_version')
            import :: c_ptr
        end function

        type(c_ptr) function c_strerror(code) bind(c, name='pycrew_strerror')
            import :: c_ptr, c_int
            integer(c_int), value :: code
        end function

        type(c_ptr) function c_last_error() bind(c, name='pycrew_last_error')
            import :: c_ptr
        end function

        type(c_ptr) function c_call_error(a_call) bind(c, name='pycrew_call_error')
            import :: c_ptr
            type(c_ptr), value :: a_call
        end function

        integer(c_int) function c_open(crew, options) bind(c, name='pycrew_open')
            import :: c_int, c_ptr, pycrew_options
            type(c_ptr), intent(inout) :: crew
            type(pycrew_options), intent(in), target :: options
        end function

        integer(c_int) function c_array_init(array, data, dtype, ndim, shape, flags) &
            bind(c, name='pycrew_array_init')
            import :: c_int, c_ptr, c_int64_t, pycrew_array
            type(pycrew_array), intent(inout) :: array
            type(c_ptr), value :: data
            integer(c_int), value :: dtype, ndim, flags
            integer(c_int64_t), intent(in) :: shape(*)
        end function

        integer(c_int) function c_array_take(a_call, array) bind(c, name='pycrew_array_take')
            import :: c_int, c_ptr, pycrew_array
            type(c_ptr), value :: a_call
            type(pycrew_array), intent(inout) :: array
        end function

        integer(c_int) function c_function_get(crew, name, func) bind(c, name='pycrew_function_get')
            import :: c_int, c_ptr, c_char
            type(c_ptr), value :: crew
            character(kind=c_char), intent(in) :: name(*)
            type(c_ptr), intent(inout) :: func
        end function

        integer(c_int) function c_function_source(crew, name, source, func) &
            bind(c, name='pycrew_function_source')
            import :: c_int, c_ptr, c_char
            type(c_ptr), value :: crew
            character(kind=c_char), intent(in) :: name(*), source(*)
            type(c_ptr), intent(inout) :: func
        end function

        integer(c_int) function c_prepare(crew, func, timeout_ns, a_call) bind(c, name='pycrew_prepare')
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: crew, func
            integer(c_int64_t), value :: timeout_ns
            type(c_ptr), intent(inout) :: a_call
        end function

        integer(c_int) function c_add_bool(a_call, value) bind(c, name='pycrew_add_bool')
            import :: c_int, c_ptr, c_bool
            type(c_ptr), value :: a_call
            logical(c_bool), value :: value
        end function

        integer(c_int) function c_add_bigint(a_call, hex) bind(c, name='pycrew_add_bigint')
            import :: c_int, c_ptr, c_char
            type(c_ptr), value :: a_call
            character(kind=c_char), intent(in) :: hex(*)
        end function

        integer(c_int) function c_add_str(a_call, text, size) bind(c, name='pycrew_add_str')
            import :: c_int, c_ptr, c_char, c_size_t
            type(c_ptr), value :: a_call
            character(kind=c_char), intent(in) :: text(*)
            integer(c_size_t), value :: size
        end function

        integer(c_int) function c_add_json(a_call, text, size) bind(c, name='pycrew_add_json')
            import :: c_int, c_ptr, c_char, c_size_t
            type(c_ptr), value :: a_call
            character(kind=c_char), intent(in) :: text(*)
            integer(c_size_t), value :: size
        end function

        integer(c_int) function c_add_name(a_call, keyword) bind(c, name='pycrew_add_name')
            import :: c_int, c_ptr, c_char
            type(c_ptr), value :: a_call
            character(kind=c_char), intent(in) :: keyword(*)
        end function

        integer(c_int) function c_set_json(a_call, json) bind(c, name='pycrew_set_json')
            import :: c_int, c_ptr, c_bool
            type(c_ptr), value :: a_call
            logical(c_bool), value :: json
        end function

        integer(c_int) function c_result_bool(a_call, value) bind(c, name='pycrew_result_bool')
            import :: c_int, c_ptr, c_bool
            type(c_ptr), value :: a_call
            logical(c_bool), intent(inout) :: value
        end function

        integer(c_int) function c_result_str(a_call, text, size) bind(c, name='pycrew_result_str')
            import :: c_int, c_ptr, c_size_t
            type(c_ptr), value :: a_call
            type(c_ptr), intent(inout) :: text
            integer(c_size_t), intent(inout) :: size
        end function

        integer(c_int) function c_result_json(a_call, text, size) bind(c, name='pycrew_result_json')
            import :: c_int, c_ptr, c_size_t
            type(c_ptr), value :: a_call
            type(c_ptr), intent(inout) :: text
            integer(c_size_t), intent(inout) :: size
        end function

        integer(c_int) function c_result_array(a_call, array) bind(c, name='pycrew_result_array')
            import :: c_int, c_ptr, pycrew_array
            type(c_ptr), value :: a_call
            type(pycrew_array), intent(inout) :: array
        end function

        integer(c_int) function c_queue_open(crew, queue) bind(c, name='pycrew_queue_open')
            import :: c_int, c_ptr
            type(c_ptr), value :: crew
            type(c_ptr), intent(inout) :: queue
        end function

        integer(c_int) function c_queue_reap(queue, calls, most, timeout_ns) bind(c, name='pycrew_queue_reap')
            import :: c_int, c_ptr, c_int64_t
            type(c_ptr), value :: queue
            type(c_ptr), intent(inout) :: calls(*)
            integer(c_int), value :: most
            integer(c_int64_t), value :: timeout_ns
        end function

        integer(c_int) function c_map(crew, func, inputs, ninputs, output, options) bind(c, name='pycrew_map')
            import :: c_int, c_ptr, pycrew_array, pycrew_map_options
            type(c_ptr), value :: crew, func
            type(pycrew_array), intent(in), target :: inputs(*)
            integer(c_int), value :: ninputs
            type(pycrew_array), intent(inout), target :: output
            type(pycrew_map_options), intent(in), target :: options
        end function

        integer(c_size_t) function c_strlen(text) bind(c, name='strlen')
            import :: c_ptr, c_size_t
            type(c_ptr), value :: text
        end function
    end interface

contains

    ! ---- errors ----

    function pycrew_version() result(text)
        character(:), allocatable :: text
        text = pycrew_text(c_version())
    end function

    function pycrew_strerror(code) result(text)
        integer(c_int), intent(in) :: code
        character(:), allocatable :: text
        text = pycrew_text(c_strerror(code))
    end function

    ! Until the next function of pycrew that this thread calls. Never null.
    function pycrew_last_error() result(error)
        type(pycrew_error), pointer :: error
        call c_f_pointer(c_last_error(), error)
    end function

    ! Null if the call returned, or has not ended.
    function pycrew_call_error(a_call) result(error)
        type(c_ptr), intent(in) :: a_call
        type(pycrew_error), pointer :: error
        type(c_ptr) :: at
        error => null()
        at = c_call_error(a_call)
        if (c_associated(at)) call c_f_pointer(at, error)
    end function

    ! The last error's line for people.
    function pycrew_message() result(text)
        character(:), allocatable :: text
        type(pycrew_error), pointer :: error
        error => pycrew_last_error()
        text = pycrew_text(error%message)
    end function

    ! A copy of a NUL-ended text, as of pycrew_error; of c_null_ptr, ''.
    function pycrew_text(at) result(text)
        type(c_ptr), intent(in) :: at
        character(:), allocatable :: text
        text = ''
        if (c_associated(at)) text = text_of(at, c_strlen(at))
    end function

    ! ---- the crew ----

    ! What is given as an argument counts, not what options says of it. Words of lists are as long as
    ! the longest: [character(20) :: 'scipy.linalg', 'my_module'].
    integer(c_int) function pycrew_open(crew, options, path, preload, env, python, init, exit) result(code)
        type(c_ptr), intent(out) :: crew
        type(pycrew_options), intent(in), target, optional :: options
        character(*), intent(in), optional :: path(:), preload(:), env(:), python, init, exit
        type(pycrew_options), target :: all
        type(word_list), target :: paths, preloads, envs, texts(3)

        crew = c_null_ptr
        if (present(options)) all = options
        all%size = c_sizeof(all)
        if (present(path)) all%path = c_list(path, paths)
        if (present(preload)) all%preload = c_list(preload, preloads)
        if (present(env)) all%env = c_list(env, envs)
        if (present(python)) all%python = c_text(python, texts(1))
        if (present(init)) all%init = c_text(init, texts(2))
        if (present(exit)) all%exit = c_text(exit, texts(3))
        code = c_open(crew, all)
    end function

    function c_list(words, list) result(at)
        character(*), intent(in) :: words(:)
        type(word_list), intent(inout), target :: list
        type(c_ptr) :: at
        integer :: i, j
        allocate (list%letters(len(words) + 1, size(words)), list%words(size(words) + 1))
        list%letters = c_null_char
        list%words = c_null_ptr
        do i = 1, size(words)
            do j = 1, len_trim(words(i))
                list%letters(j, i) = words(i) (j:j)
            end do
            list%words(i) = c_loc(list%letters(1, i))
        end do
        at = c_loc(list%words)
    end function

    function c_text(text, list) result(at)
        character(*), intent(in) :: text
        type(word_list), intent(inout), target :: list
        type(c_ptr) :: at
        at = c_list([text], list)
        at = list%words(1)
    end function

    ! ---- arrays ----

    integer(c_int) function init_bool(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        logical(c_bool), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_BOOL, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    integer(c_int) function init_i8(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        integer(c_int8_t), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_I8, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    integer(c_int) function init_i16(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        integer(c_int16_t), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_I16, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    integer(c_int) function init_i32(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        integer(c_int32_t), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_I32, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    integer(c_int) function init_i64(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        integer(c_int64_t), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_I64, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    integer(c_int) function init_f32(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        real(c_float), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_F32, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    integer(c_int) function init_f64(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        real(c_double), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_F64, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    integer(c_int) function init_c64(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        complex(c_float_complex), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_C64, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    integer(c_int) function init_c128(array, data, flags) result(code)
        type(pycrew_array), intent(out) :: array
        complex(c_double_complex), intent(in), target :: data(..)
        integer(c_int), intent(in), optional :: flags
        code = describe(array, c_loc(data), PYCREW_C128, shape(data, c_int64_t), is_contiguous(data), flags)
    end function

    ! Elements of any type, at an address: in C's order unless flags say PYCREW_FORTRAN.
    integer(c_int) function init_at(array, data, dtype, extents, flags) result(code)
        type(pycrew_array), intent(out) :: array
        type(c_ptr), intent(in) :: data
        integer(c_int), intent(in) :: dtype
        integer(c_int64_t), intent(in) :: extents(:)
        integer(c_int), intent(in) :: flags
        code = c_array_init(array, data, dtype, size(extents), extents, flags)
    end function

    integer(c_int) function describe(array, data, dtype, extents, without_gaps, flags) result(code)
        type(pycrew_array), intent(out) :: array
        type(c_ptr), intent(in) :: data
        integer(c_int), intent(in) :: dtype
        integer(c_int64_t), intent(in) :: extents(:)
        logical, intent(in) :: without_gaps
        integer(c_int), intent(in), optional :: flags
        integer(c_int) :: all_flags
        all_flags = PYCREW_FORTRAN
        if (present(flags)) all_flags = ior(all_flags, flags)
        if (iand(all_flags, PYCREW_STRIDED) /= 0) all_flags = iand(all_flags, not(PYCREW_FORTRAN))
        code = -EINVAL
        if (without_gaps) code = init_at(array, data, dtype, extents, all_flags)
    end function

    integer(c_int) function pycrew_array_take(a_call, array) result(code)
        type(c_ptr), intent(in) :: a_call
        type(pycrew_array), intent(inout) :: array
        array%size = c_sizeof(array)
        code = c_array_take(a_call, array)
    end function

    ! Whether it is what Fortran has: elements of that type, without gaps, first index fastest. Then
    !     call c_f_pointer(array%data, x, array%shape(:rank))
    logical function pycrew_array_is(array, dtype, rank) result(is)
        type(pycrew_array), intent(in) :: array
        integer(c_int), intent(in) :: dtype, rank
        integer(c_int64_t) :: step
        integer :: i
        is = array%dtype == dtype .and. array%ndim == rank
        if (.not. is .or. any(array%shape(:array%ndim) == 0)) return
        step = int(array%itemsize, c_int64_t)
        do i = 1, rank
            if (array%shape(i) > 1 .and. array%strides(i) /= step) is = .false.
            step = step*array%shape(i)
        end do
    end function

    ! ---- functions and calls ----

    integer(c_int) function pycrew_function_get(crew, name, func) result(code)
        type(c_ptr), intent(in) :: crew
        character(*), intent(in) :: name
        type(c_ptr), intent(out) :: func
        func = c_null_ptr
        code = c_function_get(crew, name//c_null_char, func)
    end function

    integer(c_int) function pycrew_function_source(crew, name, source, func) result(code)
        type(c_ptr), intent(in) :: crew
        character(*), intent(in) :: name, source
        type(c_ptr), intent(out) :: func
        func = c_null_ptr
        code = c_function_source(crew, name//c_null_char, source//c_null_char, func)
    end function

    integer(c_int) function pycrew_prepare(crew, func, timeout_ns, a_call) result(code)
        type(c_ptr), intent(in) :: crew, func
        integer(c_int64_t), intent(in) :: timeout_ns
        type(c_ptr), intent(out) :: a_call
        a_call = c_null_ptr
        code = c_prepare(crew, func, timeout_ns, a_call)
    end function

    integer(c_int) function pycrew_add_bool(a_call, value) result(code)
        type(c_ptr), intent(in) :: a_call
        logical, intent(in) :: value
        code = c_add_bool(a_call, logical(value, c_bool))
    end function

    integer(c_int) function add_i32(a_call, value) result(code)
        type(c_ptr), intent(in) :: a_call
        integer(c_int32_t), intent(in) :: value
        code = pycrew_add_i64(a_call, int(value, c_int64_t))
    end function

    integer(c_int) function add_f32(a_call, value) result(code)
        type(c_ptr), intent(in) :: a_call
        real(c_float), intent(in) :: value
        code = pycrew_add_f64(a_call, real(value, c_double))
    end function

    integer(c_int) function pycrew_add_bigint(a_call, hex) result(code)
        type(c_ptr), intent(in) :: a_call
        character(*), intent(in) :: hex
        code = c_add_bigint(a_call, hex//c_null_char)
    end function

    integer(c_int) function pycrew_add_str(a_call, text) result(code)
        type(c_ptr), intent(in) :: a_call
        character(*), intent(in) :: text
        code = c_add_str(a_call, text, len(text, c_size_t))
    end function

    integer(c_int) function pycrew_add_json(a_call, text) result(code)
        type(c_ptr), intent(in) :: a_call
        character(*), intent(in) :: text
        code = c_add_json(a_call, text, len(text, c_size_t))
    end function

    integer(c_int) function pycrew_add_name(a_call, keyword) result(code)
        type(c_ptr), intent(in) :: a_call
        character(*), intent(in) :: keyword
        code = c_add_name(a_call, keyword//c_null_char)
    end function

    integer(c_int) function pycrew_set_json(a_call, json) result(code)
        type(c_ptr), intent(in) :: a_call
        logical, intent(in) :: json
        code = c_set_json(a_call, logical(json, c_bool))
    end function

    ! ---- results ----

    integer(c_int) function pycrew_result_bool(a_call, value) result(code)
        type(c_ptr), intent(in) :: a_call
        logical, intent(inout) :: value
        logical(c_bool) :: c_value
        c_value = value
        code = c_result_bool(a_call, c_value)
        value = c_value
    end function

    ! -ERANGE: it does not fit; the last error knows nothing of that if it fits 64 bits.
    integer(c_int) function result_i32(a_call, value) result(code)
        type(c_ptr), intent(in) :: a_call
        integer(c_int32_t), intent(inout) :: value
        integer(c_int64_t) :: wide
        wide = value
        code = pycrew_result_i64(a_call, wide)
        if (code == 0 .and. (wide < -huge(value) - 1_c_int64_t .or. wide > huge(value))) code = -ERANGE
        if (code == 0) value = int(wide, c_int32_t)
    end function

    integer(c_int) function pycrew_result_str(a_call, text) result(code)
        type(c_ptr), intent(in) :: a_call
        character(:), allocatable, intent(inout) :: text
        type(c_ptr) :: at
        integer(c_size_t) :: size
        at = c_null_ptr
        size = 0
        code = c_result_str(a_call, at, size)
        if (code == 0) text = text_of(at, size)
    end function

    integer(c_int) function pycrew_result_json(a_call, text) result(code)
        type(c_ptr), intent(in) :: a_call
        character(:), allocatable, intent(inout) :: text
        type(c_ptr) :: at
        integer(c_size_t) :: size
        at = c_null_ptr
        size = 0
        code = c_result_json(a_call, at, size)
        if (code == 0) text = text_of(at, size)
    end function

    integer(c_int) function pycrew_result_array(a_call, array) result(code)
        type(c_ptr), intent(in) :: a_call
        type(pycrew_array), intent(inout) :: array
        array%size = c_sizeof(array)
        code = c_result_array(a_call, array)
    end function

    function text_of(at, size) result(text)
        type(c_ptr), intent(in) :: at
        integer(c_size_t), intent(in) :: size
        character(:), allocatable :: text
        character(kind=c_char), pointer :: letters(:)
        integer(c_size_t) :: i
        call c_f_pointer(at, letters, [size])
        allocate (character(size) :: text)
        do i = 1, size
            text(i:i) = letters(i)
        end do
    end function

    ! ---- queues, maps ----

    integer(c_int) function pycrew_queue_open(crew, queue) result(code)
        type(c_ptr), intent(in) :: crew
        type(c_ptr), intent(out) :: queue
        queue = c_null_ptr
        code = c_queue_open(crew, queue)
    end function

    ! As many as calls has room for.
    integer(c_int) function pycrew_queue_reap(queue, calls, timeout_ns) result(code)
        type(c_ptr), intent(in) :: queue
        type(c_ptr), intent(inout) :: calls(:)
        integer(c_int64_t), intent(in) :: timeout_ns
        code = c_queue_reap(queue, calls, size(calls), timeout_ns)
    end function

    integer(c_int) function pycrew_map(crew, func, inputs, output, options) result(code)
        type(c_ptr), intent(in) :: crew, func
        type(pycrew_array), intent(in), target :: inputs(:)
        type(pycrew_array), intent(inout), target :: output
        type(pycrew_map_options), intent(in), target, optional :: options
        type(pycrew_map_options), target :: all
        if (present(options)) all = options
        all%size = c_sizeof(all)
        code = c_map(crew, func, inputs, size(inputs), output, all)
    end function
end module pycrew
