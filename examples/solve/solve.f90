! A system of linear equations, solved by scipy where it stands: the matrix and the right-hand sides are
! Fortran arrays in memory that the worker sees too, column-major, and nothing of them is copied.
program solve
    use, intrinsic :: iso_c_binding
    use pycrew
    implicit none
    integer, parameter :: n = 400, columns = 3
    real(c_double), parameter :: enough = 1e-9_c_double
    type(c_ptr) :: crew, func
    real(c_double), pointer :: matrix(:, :), sides(:, :)
    real(c_double) :: truth(n, columns), error
    integer :: i, status
    character(1000) :: folder

    call get_command_argument(1, folder)
    if (folder == '') stop 'usage: solve FOLDER, that of solve_ops.py'
    call check(pycrew_open(crew, path=[folder], preload=['solve_ops']))
    call check(pycrew_function_get(crew, 'solve_ops:solve', func))
    call c_f_pointer(shared(n*n), matrix, [n, n])
    call c_f_pointer(shared(n*columns), sides, [n, columns])

    call random_number(matrix)
    call random_number(truth)
    do i = 1, n
        matrix(i, i) = matrix(i, i) + n
    end do
    sides = matmul(matrix, truth)
    call check(solved())
    error = maxval(abs(sides - truth))
    print '(i0, a, i0, a)', n, ' equations for ', columns, ' right-hand sides: solved in place'
    if (error > enough) then
        print '(a, es8.1)', 'the largest error is ', error
        stop 1
    end if

    matrix = 0
    status = solved()
    if (status /= PYCREW_ERAISED) stop 'a matrix of zeros has a solution'
    print '(2a)', 'a matrix of zeros: ', pycrew_message()

    call pycrew_close(crew)

contains

    ! Memory for that many numbers.
    type(c_ptr) function shared(count)
        integer, intent(in) :: count
        shared = pycrew_alloc(crew, count*c_sizeof(1.0_c_double))
        if (.not. c_associated(shared)) call check(-ENOMEM)
    end function

    ! The solution replaces sides; matrix is overwritten with its factors. What both calls say of a failure
    ! stays the last error: release sets none.
    integer function solved() result(code)
        type(pycrew_array) :: a, b
        type(c_ptr) :: a_call
        code = pycrew_array_init(a, matrix, PYCREW_WRITABLE)
        if (code == 0) code = pycrew_array_init(b, sides, PYCREW_WRITABLE)
        if (code == 0) code = pycrew_prepare(crew, func, PYCREW_FOREVER, a_call)
        if (code < 0) return
        code = pycrew_add(a_call, a)
        if (code == 0) code = pycrew_add(a_call, b)
        if (code == 0) code = pycrew_submit(a_call)
        if (code == 0) code = pycrew_wait(a_call, PYCREW_FOREVER)
        call pycrew_release(a_call)
    end function

    subroutine check(code)
        integer, intent(in) :: code
        if (code >= 0) return
        print '(2a)', 'solve: ', pycrew_message()
        stop 1
    end subroutine
end program solve
