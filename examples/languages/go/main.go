// Python functions from Go, by cgo. A goroutine that waits for one costs no thread: ended calls come
// out of one queue, and wake the goroutine that each belongs to.
package main

/*
#cgo LDFLAGS: -lpycrew
#include <pycrew.h>
#include <stdlib.h>

int hostTwice(void *data, pycrew_host_call *call); // Go's, below

// A cgo.Handle is an integer, and Go's rules let none pass as a pointer.
static inline void set_handle(pycrew_call *call, uintptr_t handle) { pycrew_set_data(call, (void *)handle); }
static inline uintptr_t get_handle(const pycrew_call *call) { return (uintptr_t)pycrew_data(call); }
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"runtime/cgo"
	"sync"
	"sync/atomic"
	"unsafe"
)

const calls = 256 // in use at a time

type Crew struct {
	raw    *C.pycrew_crew
	queue  *C.pycrew_queue
	room   chan struct{} // goroutines wait here, and not in pycrew_prepare, which would hold a thread
	reaped chan struct{} // closed when the reaper has ended
}

type Error struct {
	Code          int
	Type, Message string
	Traceback     string
	Signal        int
	MayHaveRun    bool
}

func (e *Error) Error() string {
	if e.Type != "" {
		return e.Type + ": " + e.Message
	}
	return e.Message
}

// Go's own texts: C's live until the call's release, or this thread's next function.
func copied(e *C.pycrew_error) *Error {
	return &Error{int(e.code), C.GoString(e._type), C.GoString(e.message), C.GoString(e.traceback),
		int(e.signal), bool(e.may_have_run)}
}

// The last error is the thread's, and a goroutine may change threads between two calls of C.
func check(f func() C.int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if f() < 0 {
		return copied(C.pycrew_last_error())
	}
	return nil
}

func Open(folder string) (*Crew, error) {
	crew := &Crew{room: make(chan struct{}, calls), reaped: make(chan struct{})}

	// What C follows pointers in is C's memory. pycrew_open copies all of it.
	options := (*C.pycrew_options)(C.calloc(1, C.sizeof_pycrew_options))
	defer C.free(unsafe.Pointer(options))
	path := (*[2]*C.char)(C.calloc(2, C.sizeof_size_t)) // ends with NULL
	defer C.free(unsafe.Pointer(path))
	path[0] = C.CString(folder)
	defer C.free(unsafe.Pointer(path[0]))
	options.size = C.sizeof_pycrew_options
	options.path = &path[0]
	options.calls = calls

	if err := check(func() C.int { return C.pycrew_open(&crew.raw, options) }); err != nil {
		return nil, err
	}
	if err := check(func() C.int { return C.pycrew_queue_open(crew.raw, &crew.queue) }); err != nil {
		C.pycrew_close(crew.raw)
		return nil, err
	}
	go crew.reap()
	return crew, nil
}

// After the last Run has returned: a call of a closed crew is gone, and there is no finalizer to know when.
func (crew *Crew) Close() {
	C.pycrew_queue_wake(crew.queue)
	<-crew.reaped
	C.pycrew_queue_close(crew.queue)
	C.pycrew_close(crew.raw)
}

// One goroutine, hence one thread at a time, for the queue.
func (crew *Crew) reap() {
	defer close(crew.reaped)
	var ended [64]*C.pycrew_call
	for {
		n := C.pycrew_queue_reap(crew.queue, &ended[0], C.uint(len(ended)), C.PYCREW_FOREVER)
		if n <= 0 { // woken by Close
			return
		}
		for _, call := range ended[:n] {
			close(cgo.Handle(C.get_handle(call)).Value().(chan struct{}))
		}
	}
}

func (crew *Crew) Function(name string) (function *C.pycrew_function, err error) {
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	err = check(func() C.int { return C.pycrew_function_get(crew.raw, text, &function) })
	return
}

func (crew *Crew) Source(name, source string) (function *C.pycrew_function, err error) {
	text, program := C.CString(name), C.CString(source)
	defer C.free(unsafe.Pointer(text))
	defer C.free(unsafe.Pointer(program))
	err = check(func() C.int { return C.pycrew_function_source(crew.raw, text, program, &function) })
	return
}

// Run calls a function of integers.
func (crew *Crew) Run(function *C.pycrew_function, arguments ...int64) (int64, error) {
	crew.room <- struct{}{}
	defer func() { <-crew.room }()

	var call *C.pycrew_call
	if err := check(func() C.int { return C.pycrew_prepare(crew.raw, function, 0, &call) }); err != nil {
		return 0, err
	}
	defer C.pycrew_release(call) // the queue forgets a call that was not submitted

	ended := make(chan struct{})
	handle := cgo.NewHandle(ended)
	defer handle.Delete()
	C.set_handle(call, C.uintptr_t(handle))
	for _, argument := range arguments {
		C.pycrew_add_i64(call, C.int64_t(argument)) // submit returns the code of one that failed
	}
	C.pycrew_set_queue(call, crew.queue)
	if err := check(func() C.int { return C.pycrew_submit(call) }); err != nil {
		return 0, err
	}
	<-ended

	if e := C.pycrew_call_error(call); e != nil { // the call's own, whichever thread asks
		return 0, copied(e)
	}
	var result C.int64_t
	err := check(func() C.int { return C.pycrew_result_i64(call, &result) })
	return int64(result), err
}

// Python calls it, on a thread of the crew's. It must not panic: that would end the process.
//
//export hostTwice
func hostTwice(data unsafe.Pointer, call *C.pycrew_host_call) C.int {
	var number C.int64_t
	if rc := C.pycrew_value_i64(C.pycrew_host_argument(call, 0), &number); rc < 0 {
		return rc // raises TypeError
	}
	return C.pycrew_host_return_i64(call, 2*number)
}

func main() {
	if err := show(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func show(folder string) error {
	crew, err := Open(folder)
	if err != nil {
		return err
	}
	defer crew.Close()

	add, err := crew.Function("math_ops:add")
	if err != nil {
		return err
	}
	divide, _ := crew.Function("math_ops:divide")
	crash, _ := crew.Function("math_ops:crash")
	sum, err := crew.Run(add, 3, 5)
	fmt.Println("add(3, 5) =", sum, err)
	_, err = crew.Run(divide, 1, 0)
	fmt.Println("divide(1, 0):", err)
	if _, err = crew.Run(crash); err.(*Error).MayHaveRun {
		fmt.Println("crash() lost its worker to signal", err.(*Error).Signal)
	}

	name := C.CString("twice")
	defer C.free(unsafe.Pointer(name))
	function := C.pycrew_host_function(C.hostTwice)
	if err = check(func() C.int { return C.pycrew_export(crew.raw, name, function, nil) }); err != nil {
		return err
	}
	ask, err := crew.Source("ask", "import pycrew\ndef ask(n):\n    return pycrew.host.twice(n)\n")
	if err != nil {
		return err
	}
	answer, err := crew.Run(ask, 21)
	fmt.Println("ask(21) =", answer, err)

	var all sync.WaitGroup
	var total int64
	for i := int64(0); i < 1000; i++ {
		all.Add(1)
		go func(i int64) {
			defer all.Done()
			n, err := crew.Run(add, i, 1)
			if err != nil {
				fmt.Println(err)
			}
			atomic.AddInt64(&total, n)
		}(i)
	}
	all.Wait()
	fmt.Println("1000 goroutines:", total)
	return nil
}
