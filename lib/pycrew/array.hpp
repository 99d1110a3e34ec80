/* Arrays: views of them, those that outlive their call, and memory that workers see too. */
#ifndef PYCREW_ARRAY_HPP
#define PYCREW_ARRAY_HPP

#include <array>
#include <cerrno>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "convert.hpp"

namespace pycrew
{

namespace detail
{

template <typename T> constexpr pycrew_dtype dtype_of_int()
{
    constexpr bool is_signed = std::is_signed_v<T>;

    switch (sizeof(T)) {
    case 1:
        return is_signed ? PYCREW_I8 : PYCREW_U8;
    case 2:
        return is_signed ? PYCREW_I16 : PYCREW_U16;
    case 4:
        return is_signed ? PYCREW_I32 : PYCREW_U32;
    default:
        return is_signed ? PYCREW_I64 : PYCREW_U64;
    }
}

template <typename T> constexpr pycrew_dtype find_dtype()
{
    if constexpr (std::is_same_v<T, bool>)
        return PYCREW_BOOL;
    else if constexpr (is_int<T>)
        return dtype_of_int<T>();
    else if constexpr (std::is_same_v<T, float>)
        return PYCREW_F32;
    else if constexpr (std::is_same_v<T, double>)
        return PYCREW_F64;
    else if constexpr (std::is_same_v<T, std::complex<float>>)
        return PYCREW_C64;
    else if constexpr (std::is_same_v<T, std::complex<double>>)
        return PYCREW_C128;
    else
        return PYCREW_OTHER;
}

} // namespace detail

template <typename T> class array_view;

namespace detail
{

template <typename T> inline constexpr bool is_array_view = false;
template <typename T> inline constexpr bool is_array_view<array_view<T>> = true;
template <typename T> inline constexpr bool is_array_view<const array_view<T>> = true;

} // namespace detail

/* Elements that are somebody else's: the host's memory, an array's, or a result's. T: bool, an int,
 * float, double or std::complex of these, const where they are not to be written. As an argument it
 * is read-only for the function, and copied unless it is the crew's memory; see writable. */
template <typename T> class array_view
{
    static constexpr pycrew_dtype dtype = detail::find_dtype<std::remove_const_t<T>>();
    static_assert(dtype != PYCREW_OTHER, "arrays are of bool, ints, floats and complex numbers");

  public:
    using value_type = std::remove_const_t<T>;

    array_view() : array_view(nullptr, {0})
    {
    }
    /* The last index runs fastest. */
    array_view(T *data, std::initializer_list<std::int64_t> shape)
        : array_view(data, shape.begin(), shape.size())
    {
    }
    array_view(T *data, const std::vector<std::int64_t> &shape)
        : array_view(data, shape.data(), shape.size())
    {
    }
    /* All of a vector, a std::array, ... */
    template <typename Range,
              typename = std::enable_if_t<
                  !detail::is_array_view<Range> &&
                  std::is_convertible_v<decltype(std::declval<Range &>().data()), T *>>>
    explicit array_view(Range &range)
        : array_view(range.data(), {static_cast<std::int64_t>(range.size())})
    {
    }
    /* What the library described: of this type, or PYCREW_ETYPE. */
    explicit array_view(const pycrew_array &from) : native_(from)
    {
        if (from.dtype != dtype)
            detail::fail(PYCREW_ETYPE, "the array is of another type");
    }

    T *data() const
    {
        return static_cast<T *>(native_.data);
    }
    std::size_t dimensions() const
    {
        return static_cast<std::size_t>(native_.ndim);
    }
    std::size_t shape(std::size_t dimension) const
    {
        return static_cast<std::size_t>(native_.shape[dimension]);
    }
    std::int64_t stride(std::size_t dimension) const /* in bytes */
    {
        return native_.strides[dimension];
    }
    std::size_t size() const /* elements */
    {
        std::size_t count = 1;

        for (std::size_t i = 0; i < dimensions(); i++)
            count *= shape(i);
        return count;
    }
    bool contiguous() const /* no gaps, and the last index runs fastest */
    {
        std::int64_t expected = static_cast<std::int64_t>(sizeof(T));

        for (std::size_t i = dimensions(); i-- > 0; expected *= native_.shape[i])
            if (native_.shape[i] > 1 && native_.strides[i] != expected)
                return size() == 0;
        return true;
    }

    /* One element: an index for each dimension. */
    template <typename... Index> T &operator()(Index... index) const
    {
        const std::array<std::int64_t, sizeof...(Index)> at{{static_cast<std::int64_t>(index)...}};
        std::int64_t offset = 0;

        for (std::size_t i = 0; i < at.size(); i++)
            offset += at[i] * native_.strides[i];
        return *reinterpret_cast<T *>(reinterpret_cast<std::intptr_t>(native_.data) + offset);
    }

    /* All elements of a contiguous array; -EINVAL of another. */
    T *begin() const
    {
        if (!contiguous())
            detail::fail(-EINVAL, "the array has strides: take its elements by their indices");
        return data();
    }
    T *end() const
    {
        return size() != 0 ? begin() + size() : begin();
    }

    const pycrew_array &native() const
    {
        return native_;
    }

  private:
    array_view(T *data, const std::int64_t *shape, std::size_t dimensions)
    {
        detail::check(
            pycrew_array_init(&native_, data, dtype, static_cast<int>(dimensions), shape, 0));
    }

    pycrew_array native_ = PYCREW_ARRAY_INIT;
};

template <typename Range>
array_view(Range &) -> array_view<std::remove_pointer_t<decltype(std::declval<Range &>().data())>>;

template <typename T> struct convert<array_view<T>> {
    static constexpr bool borrows = true;

    static int add(pycrew_call *call, const array_view<T> &value)
    {
        return pycrew_add_array(call, &value.native());
    }
    static array_view<T> get(pycrew_value value)
    {
        static_assert(std::is_const_v<T>, "a view of a result is of const elements");
        pycrew_array found = PYCREW_ARRAY_INIT;

        detail::check(pycrew_value_array(value, &found));
        return array_view<T>(found);
    }
};

/* An array that the function may write: in the crew's memory where it is, else copied back when the
 * call is found to have ended. The elements are to be there until then. */
template <typename T> struct writable_array {
    pycrew_array native;
};

template <typename T> writable_array<T> writable(const array_view<T> &view)
{
    static_assert(!std::is_const_v<T>, "const elements are not to be written");
    writable_array<T> result{view.native()};

    result.native.flags |= PYCREW_WRITABLE | PYCREW_COPY_BACK;
    return result;
}

template <typename T> struct convert<writable_array<T>> {
    static int add(pycrew_call *call, const writable_array<T> &value)
    {
        return pycrew_add_array(call, &value.native);
    }
};

/* A call's result that outlives the call, uncopied; to be gone before the crew is. Given to another
 * call it is not copied either. */
template <typename T> class array
{
  public:
    array(pycrew_crew *of, const pycrew_array &taken) : crew_(of), taken_(taken)
    {
    }
    array(array &&from) noexcept : crew_(std::exchange(from.crew_, nullptr)), taken_(from.taken_)
    {
    }
    array &operator=(array &&from) noexcept
    {
        std::swap(crew_, from.crew_);
        std::swap(taken_, from.taken_);
        return *this;
    }
    ~array()
    {
        if (crew_ != nullptr)
            pycrew_array_drop(crew_, &taken_);
    }

    array_view<T> view() const
    {
        return array_view<T>(taken_);
    }

  private:
    pycrew_crew *crew_;
    pycrew_array taken_;
};

template <typename T> struct convert<array<T>> {
    static int add(pycrew_call *call, const array<T> &value)
    {
        return pycrew_add_array(call, &value.view().native());
    }
    /* Of a call, or a batch's item, alone, not nested in its result. */
    template <typename From> static array<T> take(From *from, pycrew_crew *crew)
    {
        pycrew_array taken = PYCREW_ARRAY_INIT;

        if constexpr (std::is_same_v<From, pycrew_batch>)
            detail::check(pycrew_batch_array_take(from, &taken));
        else
            detail::check(pycrew_array_take(from, &taken));
        array<T> result(crew, taken);
        (void)result.view(); /* is it of this type? */
        return result;
    }
};

/* Memory that the workers see too, not zeroed: views of it travel without a copy. Freed with the
 * buffer, or when the last call that uses it has ended; to be gone before the crew is. */
template <typename T> class buffer
{
    static_assert(std::is_trivially_copyable_v<T>, "nobody constructs or destroys the elements");

  public:
    buffer(pycrew_crew *of, std::size_t size) : crew_(of), size_(size)
    {
        if (size > std::numeric_limits<std::size_t>::max() / sizeof(T))
            detail::fail(-E2BIG, "the elements are too many");
        data_ = static_cast<T *>(pycrew_alloc(of, size != 0 ? size * sizeof(T) : 1));
        if (data_ == nullptr)
            throw error(*pycrew_last_error());
    }
    buffer(buffer &&from) noexcept
        : crew_(from.crew_), data_(std::exchange(from.data_, nullptr)),
          size_(std::exchange(from.size_, 0))
    {
    }
    buffer &operator=(buffer &&from) noexcept
    {
        std::swap(crew_, from.crew_);
        std::swap(data_, from.data_);
        std::swap(size_, from.size_);
        return *this;
    }
    ~buffer()
    {
        if (data_ != nullptr)
            pycrew_free(crew_, data_);
    }

    T *data() const
    {
        return data_;
    }
    std::size_t size() const
    {
        return size_;
    }
    T &operator[](std::size_t index) const
    {
        return data_[index];
    }
    T *begin() const
    {
        return data_;
    }
    T *end() const
    {
        return data_ + size_;
    }
    array_view<T> view() const
    {
        return array_view<T>(data_, {static_cast<std::int64_t>(size_)});
    }

  private:
    pycrew_crew *crew_;
    T *data_ = nullptr;
    std::size_t size_;
};

namespace detail
{

template <typename T> inline constexpr bool is_array = false;
template <typename T> inline constexpr bool is_array<array<T>> = true;

} // namespace detail

} // namespace pycrew

#endif
