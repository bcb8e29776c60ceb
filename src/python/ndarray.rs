//! NumPy arrays as this package sees them: what one look at an array found, the second look before a kernel runs, and
//! the blocks of elements that kernels are then lent. No argument is converted here, and no kernel called.
//!
//! Python code may run while arguments are taken in (`__array__`, `__float__`, `__index__`, a finaliser ...), and it may
//! set `x.shape`, `x.dtype` or resize `x`. So nothing is read from an array twice: a [`Snapshot`] holds what was seen,
//! checks go by it, and [`NdArray::operand`] compares it with the array once more when nothing foreign can run any
//! longer. An [`Operand`] borrows its [`NdArray`], which owns a reference to the array; a [`Block`] borrows as long. So
//! no block outlives what it lies in, and since a block is checked against the extent of its operand when it is made,
//! it does not reach beyond it.

use std::marker::PhantomData;
use std::ops::{Deref, Range, RangeInclusive};
use std::string::String;
use std::{ptr, slice};

use numpy::npyffi::{
    self, NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_ENSUREARRAY, NPY_ARRAY_FORCECAST, NPY_ARRAY_NOTSWAPPED,
    NPY_ARRAY_OWNDATA, NPY_ARRAY_WRITEABLE, NPY_TYPES, PY_ARRAY_API, PyArray_Descr, PyArrayObject,
    PyArrayObject_fields, npy_intp,
};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};

use super::dims::{FEW, Layout, Strides, few};
use super::dtype::{Dtype, Element, array_type};
use super::errors::{Shape, text, value_error};
use super::list::attribute;
use crate::view::{Matrix, MatrixMut};

/// What one look at an array found. Its numbers are copies; only an [`Operand`] reads what `data` points to.
#[derive(Debug)]
pub(super) struct Snapshot {
    data: *mut u8,
    layout: Layout,
    /// The number of elements.
    len: usize,
    itemsize: u32,
    /// Where the descriptor was, and NumPy's number of its type, to be compared.
    descr: *mut PyArray_Descr,
    type_num: i32,
    flags: i32,
    dtype: Option<Dtype>,
    kind: u8,
    native: bool,
}

// SAFETY: an address and numbers. Reading through the address is promised where a block becomes a matrix.
unsafe impl Send for Snapshot {}
// SAFETY: as above.
unsafe impl Sync for Snapshot {}

impl Snapshot {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let fields = fields(object);
        let (shape, strides) = dims(fields);
        let (data, descr, flags) = (fields.data.cast(), fields.descr, fields.flags);
        let (layout, len) = Layout::new(shape, strides, flags & NPY_ARRAY_C_CONTIGUOUS != 0)?;
        // SAFETY: the descriptor of a live array, read while no foreign code runs.
        let (kind, native, type_num) =
            unsafe { ((*npyffi::_PyDataType_GET_ITEM_DATA(descr)).kind as u8, is_native(descr), type_num(descr)) };
        // SAFETY: as above. A dtype that was not seen before is asked for its name, the rest is read by then.
        let (itemsize, dtype) = unsafe {
            let builtin = Dtype::builtin(descr);
            // NumPy keeps it in an int.
            let itemsize =
                builtin.map_or_else(|| npyffi::PyDataType_ELSIZE(py, descr) as u32, |dtype| dtype.size() as u32);
            let registered = || Dtype::registered(py, descr).filter(|dtype| dtype.size() as u32 == itemsize);
            (itemsize, builtin.or_else(registered))
        };
        Ok(Self { data, layout, len, itemsize, descr, type_num, flags, dtype, kind, native })
    }

    /// Whether a second look at the array finds the same.
    ///
    /// Where the descriptor is another object, the elements are taken to be others too. Where it lies in the same place,
    /// it may still be another, made after the first was freed: so its type is compared as well, which tells the size
    /// of what kernels read. With that, shape and strides the same, the array reaches as far as it did; which bytes of
    /// a number come first does not matter for it.
    #[inline(always)]
    fn still_holds(&self, object: &Bound<'_, PyAny>) -> bool {
        let fields = fields(object);
        let (shape, strides) = dims(fields);
        let dense = fields.flags & NPY_ARRAY_C_CONTIGUOUS != 0;
        ptr::eq(fields.data.cast(), self.data)
            && ptr::eq(fields.descr, self.descr)
            // SAFETY: the descriptor of a live array, read while no foreign code runs.
            && unsafe { self.is_of_type(object.py(), fields.descr) }
            && self.layout.is(shape, strides, dense)
    }

    /// Whether a descriptor is of the type that was seen, and for types of other packages, where `dtype.__setstate__`
    /// can change it, of the same size.
    ///
    /// # Safety
    ///
    /// `descr` is the descriptor of a live array.
    #[inline(always)]
    unsafe fn is_of_type(&self, py: Python<'_>, descr: *mut PyArray_Descr) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            type_num(descr) == self.type_num
                && (self.type_num < NPY_TYPES::NPY_USERDEF as i32
                    || npyffi::PyDataType_ELSIZE(py, descr) as u32 == self.itemsize)
        }
    }

    #[inline]
    pub(super) fn shape(&self) -> &[npy_intp] {
        self.layout.shape()
    }

    /// Strides in bytes.
    #[inline]
    pub(super) fn strides(&self) -> Strides<'_> {
        self.layout.strides(self.itemsize())
    }

    #[inline]
    pub(super) fn ndim(&self) -> usize {
        self.shape().len()
    }

    /// The number of elements.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn itemsize(&self) -> usize {
        self.itemsize as usize
    }

    /// The float dtype, whatever its byte order.
    #[inline]
    pub(super) fn float(&self) -> Option<Dtype> {
        self.dtype
    }

    /// NumPy's letter for what elements are: `b`ool, `i`nteger, `u`nsigned, `f`loat, `O`bject ...
    #[inline]
    pub(super) fn kind(&self) -> u8 {
        self.kind
    }

    /// Whether the elements are bools or integers.
    #[inline]
    pub(super) fn is_integral(&self) -> bool {
        matches!(self.kind, b'b' | b'i' | b'u')
    }

    #[inline]
    pub(super) fn is_native(&self) -> bool {
        self.native
    }

    /// Whether all these NumPy flags were set.
    #[inline]
    fn has(&self, flags: i32) -> bool {
        self.flags & flags == flags
    }

    #[inline]
    pub(super) fn is_c_contiguous(&self) -> bool {
        self.has(NPY_ARRAY_C_CONTIGUOUS)
    }

    pub(super) fn is_writeable(&self) -> bool {
        self.has(NPY_ARRAY_WRITEABLE)
    }

    /// Whether elements are native, aligned, and a whole number of elements apart, as typed pointers need.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.native && self.has(NPY_ARRAY_ALIGNED) && (self.is_c_contiguous() || self.has_whole_strides())
    }

    fn has_whole_strides(&self) -> bool {
        let item = self.itemsize().cast_signed().max(1);
        self.shape().iter().zip(&*self.strides()).all(|(&dim, &stride)| dim <= 1 || stride % item == 0)
    }

    /// Where the elements lie in bytes, counted from element (0, 0, ...); empty where there are none.
    #[inline]
    fn reach(&self) -> Range<isize> {
        let item = self.itemsize().cast_signed();
        if self.is_c_contiguous() {
            return 0..self.len().cast_signed().wrapping_mul(item);
        }
        let (mut low, mut high) = (0, item);
        for (&dim, &stride) in self.shape().iter().zip(&*self.strides()) {
            if dim == 0 {
                return 0..0;
            }
            let reach = (dim - 1).wrapping_mul(stride);
            if stride < 0 { low = reach.wrapping_add(low) } else { high = reach.wrapping_add(high) }
        }
        low..high
    }

    /// The addresses of the elements; empty where there are none.
    #[inline]
    pub(super) fn extent(&self) -> Range<usize> {
        let reach = self.reach();
        let address = self.data as usize;
        address.wrapping_add_signed(reach.start)..address.wrapping_add_signed(reach.end)
    }

    /// Whether both are the same elements in the same order.
    pub(super) fn is_same_view(&self, other: &Self) -> bool {
        ptr::eq(self.data, other.data)
            && self.shape() == other.shape()
            && (*self.strides() == *other.strides() || self.is_c_contiguous() && other.is_c_contiguous())
            && self.itemsize == other.itemsize
    }
}

/// Whether two ranges of addresses meet.
#[inline]
pub(super) fn meet(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// # Safety
///
/// `descr` is the descriptor of a live array.
#[inline(always)]
unsafe fn is_native(descr: *mut PyArray_Descr) -> bool {
    const SWAPPED: u8 = if cfg!(target_endian = "little") { b'>' } else { b'<' };
    // SAFETY: the caller's promise.
    unsafe { (*npyffi::_PyDataType_GET_ITEM_DATA(descr)).byteorder as u8 != SWAPPED }
}

/// NumPy's number of a descriptor's type.
///
/// # Safety
///
/// `descr` is the descriptor of a live array.
#[inline(always)]
unsafe fn type_num(descr: *mut PyArray_Descr) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { (*npyffi::_PyDataType_GET_ITEM_DATA(descr)).type_num }
}

/// What NumPy keeps of an array. Only for this file, where each caller has seen that the object is one: an object does
/// not stop being an array, whatever runs meanwhile. Numbers are to be copied out at once, as any foreign code may
/// change them.
#[inline(always)]
fn fields<'a>(array: &'a Bound<'_, PyAny>) -> &'a PyArrayObject_fields {
    // SAFETY: callers pass arrays, alive as long as borrowed.
    unsafe { &*npyffi::_PyArray_GET_ITEM_DATA(array.as_ptr().cast()) }
}

/// Shape and strides where NumPy keeps them, to be read at once: they are freed when someone sets `array.shape`.
#[inline]
fn dims(fields: &PyArrayObject_fields) -> (&[npy_intp], &[npy_intp]) {
    let ndim = usize::try_from(fields.nd).unwrap_or(0);
    if ndim == 0 {
        // The pointers may be null.
        return (&[], &[]);
    }
    // SAFETY: NumPy keeps `nd` numbers at each.
    unsafe { (slice::from_raw_parts(fields.dimensions, ndim), slice::from_raw_parts(fields.strides, ndim)) }
}

/// Whether the object is an array and of no subclass.
#[inline(always)]
pub(super) fn is_exact(object: &Bound<'_, PyAny>) -> bool {
    ptr::eq(object.get_type_ptr(), array_type(object.py()))
}

/// A NumPy array and what was seen of it.
#[derive(Debug)]
pub(super) struct NdArray<'py> {
    object: Bound<'py, PyAny>,
    seen: Snapshot,
    /// The argument's name, for messages.
    name: &'static str,
}

impl Deref for NdArray<'_> {
    type Target = Snapshot;

    #[inline]
    fn deref(&self) -> &Snapshot {
        &self.seen
    }
}

/// What was seen of an array that is what most are: no subclass, one of NumPy's own float dtypes, native, aligned, in C
/// order, of few dimensions. Numbers alone, so that an [`NdArray`] can be made of them where it stays: to move one costs
/// more than to look at the array.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usual {
    pub(super) dtype: Dtype,
    data: *mut u8,
    ndim: u8,
    shape: [npy_intp; FEW],
    len: usize,
    descr: *mut PyArray_Descr,
    type_num: i32,
    flags: i32,
}

impl Usual {
    /// The object where it is such an array.
    #[inline(always)]
    pub(super) fn of(object: &Bound<'_, PyAny>) -> Option<Self> {
        const FLAGS: i32 = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED;
        if !is_exact(object) {
            return None;
        }
        let fields = fields(object);
        let (data, descr, flags) = (fields.data.cast(), fields.descr, fields.flags);
        // SAFETY: the descriptor of a live array, read while no foreign code runs.
        let (dtype, native, type_num) = unsafe { (Dtype::builtin(descr)?, is_native(descr), type_num(descr)) };
        if flags & FLAGS != FLAGS || !native {
            return None;
        }
        let (ndim, shape, len) = few(dims(fields).0)?;
        Some(Self { dtype, data, ndim, shape, len, descr, type_num, flags })
    }

    /// A new array in C order that NumPy or this package has just made.
    ///
    /// # Safety
    ///
    /// `object` is such an array of this dtype and shape, native, aligned and writeable; nobody else has seen it.
    #[inline(always)]
    pub(super) unsafe fn made(object: &Bound<'_, PyAny>, dtype: Dtype, shape: &[npy_intp]) -> Option<Self> {
        let (ndim, shape, len) = few(shape)?;
        let fields = fields(object);
        let (data, descr, flags) = (fields.data.cast(), fields.descr, fields.flags);
        // SAFETY: the descriptor of a live array, read while no foreign code runs.
        let type_num = unsafe { type_num(descr) };
        Some(Self { dtype, data, ndim, shape, len, descr, type_num, flags })
    }

    #[inline]
    pub(super) fn shape(&self) -> &[npy_intp] {
        &self.shape[..usize::from(self.ndim).min(FEW)]
    }

    #[inline]
    pub(super) fn is_writeable(&self) -> bool {
        self.flags & NPY_ARRAY_WRITEABLE != 0
    }

    /// The array in which this was seen.
    #[inline(always)]
    pub(super) fn array<'py>(self, name: &'static str, object: Bound<'py, PyAny>) -> NdArray<'py> {
        let Self { dtype, data, ndim, shape, len, descr, type_num, flags } = self;
        NdArray {
            object,
            seen: Snapshot {
                data,
                layout: Layout::Dense { ndim, shape },
                len,
                itemsize: dtype.size() as u32,
                descr,
                type_num,
                flags,
                dtype: Some(dtype),
                kind: b'f',
                native: true,
            },
            name,
        }
    }
}

impl<'py> NdArray<'py> {
    /// The object where it is an array and not of a subclass.
    pub(super) fn exact(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        if is_exact(object) { Self::of(name, object.clone()).map(Some) } else { Ok(None) }
    }

    /// The object where its type is that of arrays or a subclass; its `__class__` is not asked.
    pub(super) fn any(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        // SAFETY: the object is alive.
        let array = unsafe { npyffi::PyArray_Check(object.py(), object.as_ptr()) } != 0;
        if array { Self::of(name, object.clone()).map(Some) } else { Ok(None) }
    }

    /// Takes over what a function of NumPy's C-API returned.
    ///
    /// # Safety
    ///
    /// `object` is null with an exception set, or a new reference to an array.
    pub(super) unsafe fn from_owned(
        name: &'static str,
        py: Python<'py>,
        object: *mut pyo3::ffi::PyObject,
    ) -> PyResult<Self> {
        // SAFETY: the caller's promise.
        Self::of(name, unsafe { Bound::from_owned_ptr_or_err(py, object) }?)
    }

    /// Puts an object that is an array into `slot`.
    #[cold]
    pub(super) fn put<'a>(
        name: &'static str,
        object: Bound<'py, PyAny>,
        slot: &'a mut Option<Self>,
    ) -> PyResult<&'a mut Self> {
        match Self::any(name, &object)? {
            Some(array) => Ok(slot.insert(array)),
            None => Err(super::errors::type_error!("{name} is no array")),
        }
    }

    /// `object` is an array.
    fn of(name: &'static str, object: Bound<'py, PyAny>) -> PyResult<Self> {
        Ok(Self { seen: Snapshot::of(&object)?, object, name })
    }

    #[inline]
    pub(super) fn py(&self) -> Python<'py> {
        self.object.py()
    }

    pub(super) fn object(&self) -> &Bound<'py, PyAny> {
        &self.object
    }

    pub(super) fn as_array_ptr(&self) -> *mut PyArrayObject {
        self.object.as_ptr().cast()
    }

    /// Whether the array is of this dtype in native byte order.
    pub(super) fn is_dtype(&self, dtype: Dtype) -> bool {
        self.float() == Some(dtype) && self.is_native()
    }

    /// The dtype as NumPy prints it.
    pub(super) fn dtype_name(&self) -> PyResult<String> {
        let name = attribute(&self.object, "dtype")?.str()?;
        text(format_args!("{}", name.to_cow()?))
    }

    /// The same values as another dtype, aligned and native, copied only where that is needed.
    ///
    /// # Safety
    ///
    /// `descr` is a new reference.
    pub(super) unsafe fn cast(&self, op: &str, descr: *mut PyArray_Descr, flags: i32) -> PyResult<Self> {
        let flags = flags | NPY_ARRAY_ALIGNED | NPY_ARRAY_NOTSWAPPED | NPY_ARRAY_FORCECAST | NPY_ARRAY_ENSUREARRAY;
        // SAFETY: a new reference, which NumPy takes over below.
        let descr = unsafe { Bound::from_owned_ptr(self.py(), descr.cast()) };
        let _pins = self.pinned(op)?;
        let py = self.py();
        // SAFETY: the object is an array, and NumPy takes over the reference to the descriptor.
        let cast = unsafe {
            let cast = PY_ARRAY_API.PyArray_FromArray(py, self.as_array_ptr(), descr.into_ptr().cast(), flags);
            Self::from_owned(self.name, py, cast)?
        };
        // NumPy looked at the array as it is by now.
        if cast.shape() == self.shape() { Ok(cast) } else { Err(self.changed(op)) }
    }

    /// The same values in C order, in memory of their own.
    pub(super) fn copied(&self, op: &str) -> PyResult<Self> {
        let _pins = self.pinned(op)?;
        let py = self.py();
        // SAFETY: the object is an array.
        let copy = unsafe {
            let copy = PY_ARRAY_API.PyArray_NewCopy(py, self.as_array_ptr(), npyffi::NPY_ORDER::NPY_CORDER);
            Self::from_owned(self.name, py, copy)?
        };
        if copy.shape() == self.shape() { Ok(copy) } else { Err(self.changed(op)) }
    }

    /// Copies the array into another object that is an array of the same shape, by NumPy.
    pub(super) fn copy_into(&self, op: &str, target: &Bound<'py, PyAny>) -> PyResult<()> {
        let target = Self::any(self.name, target)?;
        let target = target.ok_or_else(|| self.changed(op))?;
        let _pins = (self.pinned(op)?, target.pinned(op)?);
        self.copy_over(op, &target)
    }

    /// [`copy_into`](NdArray::copy_into), for an array that is pinned.
    pub(super) fn copy_over(&self, op: &str, target: &Self) -> PyResult<()> {
        if dims(fields(&target.object)).0 != self.shape() {
            return Err(target.changed(op));
        }
        // SAFETY: both are arrays, and NumPy looks at what they are by now.
        match unsafe { PY_ARRAY_API.PyArray_CopyInto(self.py(), target.as_array_ptr(), self.as_array_ptr()) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(self.py())),
        }
    }

    /// Pins the array while NumPy copies from it or to it: NumPy gives up the GIL for that, and keeps no one from resizing
    /// what it copies. Then looks at it again, as making a pin may run the finalisers of other objects.
    fn pinned(&self, op: &str) -> PyResult<Pins<'py>> {
        let mut pins = Pins::default();
        self.pin(&mut pins)?;
        self.operand(op)?;
        Ok(pins)
    }

    /// The array as something that can be read, after a second look at it. Between this and the end of the kernel no
    /// foreign code may run on this thread.
    #[inline(always)]
    pub(super) fn operand(&self, op: &str) -> PyResult<Operand<'_>> {
        if self.seen.still_holds(&self.object) { Ok(Operand { seen: &self.seen }) } else { Err(self.changed(op)) }
    }

    #[cold]
    fn changed(&self, op: &str) -> PyErr {
        let (name, shape) = (self.name, Shape(self.shape()));
        value_error!("{op}: {name} had shape {shape} and was changed while the arguments of the call were taken in")
    }

    /// Whether nothing foreign can run when the object is converted: it is None, a number or a string of Python's own,
    /// or an array that holds no objects and is of a dtype that this package knows. But for what NumPy calls where a
    /// number does not fit the type that it is rounded to: those who round some arrays pin the others.
    #[inline(always)]
    pub(super) fn is_inert(object: &Bound<'_, PyAny>) -> bool {
        if is_exact(object) {
            let descr = fields(object).descr;
            // SAFETY: the descriptor of a live array, read while no foreign code runs.
            return unsafe { Dtype::builtin(descr).is_some() || Dtype::is_simple(descr) };
        }
        object.is_none()
            || object.is_exact_instance_of::<PyFloat>()
            || object.is_exact_instance_of::<PyInt>()
            || object.is_exact_instance_of::<PyBool>()
            || object.is_exact_instance_of::<PyString>()
    }

    /// See [`Pins::pin`].
    pub(super) fn pin(&self, pins: &mut Pins<'py>) -> PyResult<()> {
        pins.pin(&self.object)
    }
}

/// The object whose memory a memoryview shows.
fn exporter<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    attribute(object.cast::<pyo3::types::PyMemoryView>().ok()?, "obj").ok()
}

/// So many views may lie between an array and the owner of its memory.
const MOST_VIEWS: usize = 1 << 20;

/// Weak references that keep the memory of arrays where it is, while a kernel runs without the GIL or foreign code runs
/// within a call: NumPy does not resize, even with `refcheck=False`, what has a weak reference.
#[derive(Debug, Default)]
pub(super) struct Pins<'py>(std::vec::Vec<Bound<'py, PyAny>>);

impl<'py> Pins<'py> {
    /// Pins an object that is an array, or the array whose memory it shows: that of a view belongs to its base.
    pub(super) fn pin(&mut self, object: &Bound<'py, PyAny>) -> PyResult<()> {
        let mut object = object.clone();
        // A view's base is the owner, but where views are of different classes: then each is a view of the one before.
        // Older NumPy lets `data` be assigned such that there is no end.
        for _ in 0..MOST_VIEWS {
            // SAFETY: the object is alive.
            let next = if unsafe { npyffi::PyArray_Check(object.py(), object.as_ptr()) } == 0 {
                exporter(&object)
            } else if fields(&object).flags & NPY_ARRAY_OWNDATA != 0 {
                return self.add(&object);
            } else {
                // SAFETY: an array owns a reference to its base, where it has one, and here gets another.
                unsafe { Bound::from_borrowed_ptr_or_opt(object.py(), fields(&object).base) }
            };
            let Some(next) = next else { return Ok(()) };
            object = next;
        }
        Err(value_error!("an array is a view of a view of a view, and so on without end"))
    }

    fn add(&mut self, array: &Bound<'py, PyAny>) -> PyResult<()> {
        self.0.try_reserve(1).map_err(|_| super::errors::out_of_memory())?;
        // SAFETY: the object is alive, and no callback is given.
        let weak = unsafe { pyo3::ffi::PyWeakref_NewRef(array.as_ptr(), ptr::null_mut()) };
        // SAFETY: a new reference, or null and an exception.
        self.0.push(unsafe { Bound::from_owned_ptr_or_err(array.py(), weak) }?);
        Ok(())
    }
}

/// What the elements of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elements {
    /// Floats, native and aligned.
    Floats(Dtype),
    /// Anything of one byte.
    Bytes,
    Others,
}

/// An array that was looked at twice, to be read by a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand<'a> {
    seen: &'a Snapshot,
}

impl Deref for Operand<'_> {
    type Target = Snapshot;

    #[inline]
    fn deref(&self) -> &Snapshot {
        self.seen
    }
}

impl<'a> Operand<'a> {
    /// The elements at these places. None, which is a bug, where one would lie outside the array.
    #[inline]
    pub(super) fn block(self, place: Place) -> Block<'a> {
        if self.holds(&place) { self.lend(place) } else { self.none(place) }
    }

    #[inline(always)]
    fn lend(self, place: Place) -> Block<'a> {
        let elements = match self.seen.dtype {
            Some(dtype) if self.seen.native => Elements::Floats(dtype),
            _ if self.seen.itemsize == 1 => Elements::Bytes,
            _ => Elements::Others,
        };
        Block { data: self.seen.data.wrapping_offset(place.offset), place, elements, lifetime: PhantomData }
    }

    /// A block without elements, of a shape that has none.
    #[cold]
    fn none(self, place: Place) -> Block<'a> {
        debug_assert!(place.is_empty(), "a block reaches beyond its array: {place:?} of {:?}", self.seen);
        let (rows, cols) = if place.is_empty() { (place.rows, place.cols) } else { (0, 0) };
        self.lend(Place { rows, cols, ..Place::default() })
    }

    /// Whether each of these places lies in the array.
    #[inline]
    fn holds(self, place: &Place) -> bool {
        // Most places: numbers of which no product overflows, none of them negative, in an array that begins with the first.
        const SMALL: usize = 1 << (usize::BITS / 2 - 1);
        let (down, across) = (place.rows.wrapping_sub(1), place.cols.wrapping_sub(1));
        let (offset, row_stride, col_stride) =
            (place.offset.cast_unsigned(), place.row_stride.cast_unsigned(), place.col_stride.cast_unsigned());
        if (down | across | offset | row_stride | col_stride) < SMALL && self.seen.is_c_contiguous() {
            let last = offset + down * row_stride + across * col_stride;
            return last + self.seen.itemsize() <= self.seen.len() * self.seen.itemsize();
        }
        self.holds_any(place)
    }

    /// The same, whatever the numbers are.
    #[inline(never)]
    fn holds_any(self, place: &Place) -> bool {
        let reach = |count: usize, stride: isize| count.checked_sub(1)?.cast_signed().checked_mul(stride);
        let within = || {
            let (down, across) = (reach(place.rows, place.row_stride)?, reach(place.cols, place.col_stride)?);
            let low = place.offset.checked_add(down.min(0))?.checked_add(across.min(0))?;
            let high = place.offset.checked_add(down.max(0))?.checked_add(across.max(0))?;
            let end = high.checked_add(self.seen.itemsize().cast_signed())?;
            let all = self.seen.reach();
            Some(low >= all.start && end <= all.end)
        };
        within().unwrap_or(false)
    }

    /// Matrices of one form at many places of the array, which `offsets` spans; see [`Matrices`].
    pub(super) fn matrices<T: Element>(self, place: Place, offsets: RangeInclusive<isize>) -> Matrices<'a, T> {
        let ends = [*offsets.start(), *offsets.end()].map(|offset| self.block(Place { offset, ..place }));
        let [first, last] = ends.each_ref().map(Block::matrix::<T>);
        // What lies between two places of the array lies in it too.
        let fits = first.shape() == last.shape();
        debug_assert!(fits, "matrices of two forms at the ends of their range");
        Matrices { first: if fits { first } else { Matrix::from(&[]) }, offsets }
    }

    /// A dense array as so many rows and columns.
    #[inline(always)]
    pub(super) fn dense(self, rows: usize, cols: usize) -> Block<'a> {
        let place = Place::dense(rows, cols, self.itemsize());
        let fits = self.is_c_contiguous() && rows.checked_mul(cols) == Some(self.len);
        if fits { self.lend(place) } else { self.none(place) }
    }

    /// A dense array of this type as a matrix of so many rows and columns: [`dense`](Operand::dense) and
    /// [`Block::matrix`] in fewer steps, as calls on little data take no longer than all that they check.
    #[inline(always)]
    pub(super) fn dense_matrix<T: Element>(self, rows: usize, cols: usize) -> Matrix<'a, T> {
        let Snapshot { data, dtype, native, len, .. } = *self.seen;
        let typed = dtype == Some(T::DTYPE) && native && (data as usize).is_multiple_of(align_of::<T>());
        if typed && self.is_c_contiguous() && rows.checked_mul(cols) == Some(len) {
            // SAFETY: just seen that the array's elements are `T`s, native, aligned, and lie as this matrix has them; for
            // the rest see `Block::read`.
            return unsafe { Matrix::from_raw_parts(data.cast_const().cast(), rows, cols, cols.cast_signed(), 1) };
        }
        self.dense(rows, cols).matrix()
    }

    /// All of an array of one dimension whose elements lie side by side, as a slice of this type.
    #[inline]
    pub(super) fn slice<T: Element>(self) -> &'a [T] {
        self.dense_matrix(1, self.len()).row(0).unwrap_or_default()
    }

    /// All of an array of two dimensions.
    #[inline]
    pub(super) fn matrix(self) -> Block<'a> {
        self.block(Place::of(&self))
    }
}

impl Operand<'_> {
    /// The elements of a dense array of integers of 64 bits, each read once.
    pub(super) fn integers(self) -> impl Iterator<Item = i128> {
        let (item, signed) = (size_of::<i64>(), self.kind() == b'i');
        let typed = self.is_integral() && self.native && self.itemsize() == item;
        debug_assert!(typed && self.is_c_contiguous() || self.len() == 0, "numbers of another kind");
        let len = if typed && self.is_c_contiguous() { self.len() } else { 0 };
        let start = self.seen.data.cast_const();
        (0..len).map(move |index| {
            // SAFETY: within a dense array of this type, wherever it begins.
            let number = unsafe { ptr::read_unaligned(start.add(index * item).cast::<u64>()) };
            if signed { i128::from(number.cast_signed()) } else { i128::from(number) }
        })
    }
}

/// Rows and columns of elements within an array: where the first lies and how far the next ones are, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) offset: isize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: isize,
    pub(super) col_stride: isize,
}

impl Place {
    /// Rows side by side, from the first element on.
    #[inline(always)]
    pub(super) fn dense(rows: usize, cols: usize, item: usize) -> Self {
        let item = item.cast_signed();
        Self { offset: 0, rows, cols, row_stride: cols.cast_signed().wrapping_mul(item), col_stride: item }
    }

    /// The last two dimensions of an array; those that are missing count as 1.
    #[inline]
    pub(super) fn of(array: &Snapshot) -> Self {
        let (rows, cols, row_stride, col_stride) = match (array.shape(), &*array.strides()) {
            (&[.., rows, cols], &[.., row_stride, col_stride]) => (rows, cols, row_stride, col_stride),
            (&[cols], &[col_stride]) => (1, cols, 0, col_stride),
            _ => (1, 1, 0, 0),
        };
        Self { offset: 0, rows: rows.unsigned_abs(), cols: cols.unsigned_abs(), row_stride, col_stride }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }
}

/// Rows and columns of elements in memory that is alive during `'a`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    data: *mut u8,
    place: Place,
    elements: Elements,
    lifetime: PhantomData<&'a [u8]>,
}

// SAFETY: a shared borrow of numbers, which `BlockMut` makes exclusive by its promises, not by this.
unsafe impl Send for Block<'_> {}
// SAFETY: as above.
unsafe impl Sync for Block<'_> {}

impl<'a, T: Element> From<Matrix<'a, T>> for Block<'a> {
    fn from(matrix: Matrix<'a, T>) -> Self {
        let item = size_of::<T>().cast_signed();
        let place = Place {
            offset: 0,
            rows: matrix.rows(),
            cols: matrix.cols(),
            row_stride: matrix.row_stride().wrapping_mul(item),
            col_stride: matrix.col_stride().wrapping_mul(item),
        };
        let data = matrix.as_ptr().cast_mut().cast();
        Self { data, place, elements: Elements::Floats(T::DTYPE), lifetime: PhantomData }
    }
}

impl<'a> Block<'a> {
    /// The addresses of the elements of a block whose rows lie side by side.
    pub(super) fn extent(&self) -> Range<usize> {
        let Place { rows, cols, row_stride, col_stride, .. } = self.place;
        let bytes = cols * col_stride.unsigned_abs() + rows.saturating_sub(1) * row_stride.unsigned_abs();
        if self.place.is_empty() { 0..0 } else { self.data as usize..self.data as usize + bytes }
    }

    /// Whether elements are aligned and a whole number of elements apart.
    #[inline]
    fn is_aligned(&self, item: usize, align: usize) -> bool {
        let whole = |count: usize, stride: isize| count <= 1 || stride.unsigned_abs().is_multiple_of(item);
        (self.data as usize).is_multiple_of(align)
            && whole(self.place.rows, self.place.row_stride)
            && whole(self.place.cols, self.place.col_stride)
    }

    /// The block as a matrix of its own type. Of another type, which is a bug, it is a matrix without elements.
    #[inline(always)]
    pub(super) fn matrix<T: Element>(&self) -> Matrix<'a, T> {
        let typed = self.elements == Elements::Floats(T::DTYPE);
        if typed && self.is_aligned(size_of::<T>(), align_of::<T>()) {
            // SAFETY: just seen; `Elements::Floats` are native.
            return unsafe { self.read() };
        }
        debug_assert!(self.place.is_empty(), "a block as another type than its own");
        Matrix::from(&[])
    }

    /// The block of a mask of bools or of integers of one byte.
    #[inline]
    pub(super) fn bytes(&self) -> Matrix<'a, u8> {
        if self.elements == Elements::Bytes {
            // SAFETY: elements of one byte, of which any is a `u8`.
            return unsafe { self.read() };
        }
        debug_assert!(self.place.is_empty(), "elements of several bytes as bytes");
        Matrix::from(&[])
    }

    /// # Safety
    ///
    /// Elements are `T`s, native, aligned and a whole number of them apart.
    #[inline]
    unsafe fn read<T: Copy>(&self) -> Matrix<'a, T> {
        let item = size_of::<T>().cast_signed();
        let Place { rows, cols, row_stride, col_stride, .. } = self.place;
        // SAFETY: the elements lie in a matrix that is borrowed during 'a, or in an array (`Operand::holds`) that is alive
        // during 'a, as its `NdArray` is borrowed that long. That no other Python thread writes to it while the GIL is
        // released cannot be seen from here (SECURITY.md): NumPy asks the same of its callers, and elements are plain
        // numbers, of which any bits are one.
        unsafe {
            Matrix::from_raw_parts(self.data.cast_const().cast(), rows, cols, row_stride / item, col_stride / item)
        }
    }
}

/// Matrices of one form in an array, each given by where it begins: they were looked at once for all of them, since there may
/// be many and small ones.
#[derive(Clone, Debug)]
pub(super) struct Matrices<'a, T> {
    /// The one that begins before all others.
    first: Matrix<'a, T>,
    /// Where they begin, in bytes.
    offsets: RangeInclusive<isize>,
}

impl<'a, T: Element> Matrices<'a, T> {
    /// How far from the first one a place is, in elements; nowhere, which is a bug, where it is not among them.
    #[inline]
    fn step(&self, offset: isize) -> Option<isize> {
        let (bytes, item) = (offset.wrapping_sub(*self.offsets.start()), size_of::<T>().cast_signed());
        let found = self.offsets.contains(&offset) && bytes % item == 0;
        debug_assert!(found || self.first.shape() == (0, 0), "a matrix at {offset}, beside {:?}", self.offsets);
        found.then_some(bytes / item)
    }

    /// The matrix that begins at this offset, one of the range.
    #[inline]
    pub(super) fn at(&self, offset: isize) -> Matrix<'a, T> {
        let Some(step) = self.step(offset) else { return Matrix::from(&[]) };
        let (rows, cols) = self.first.shape();
        // SAFETY: both the first and the last of these matrices lie in the array, as `Operand::matrices` saw, so this one,
        // which begins between them, does. It is a whole number of elements away, so that it is aligned.
        unsafe {
            let start = self.first.as_ptr().wrapping_offset(step);
            Matrix::from_raw_parts(start, rows, cols, self.first.row_stride(), self.first.col_stride())
        }
    }
}

/// [`Matrices`] that a kernel may write during `'a`.
#[derive(Debug)]
pub(super) struct MatricesMut<'a, T>(Matrices<'a, T>);

impl<'a, T: Element> MatricesMut<'a, T> {
    /// The matrix that begins at this offset, one of the range.
    ///
    /// # Safety
    ///
    /// Of matrices that exist at the same time, only one reads or writes an element that they have in common.
    #[inline]
    pub(super) unsafe fn at(&self, offset: isize) -> MatrixMut<'a, T> {
        let matrix = self.0.at(offset);
        let (rows, cols) = matrix.shape();
        // SAFETY: the elements are those of `matrix`, and by the promises of `Target` a kernel may write them; the caller
        // sees that it does so through one matrix. `Target::matrices` saw that rows are contiguous and do not overlap.
        unsafe { MatrixMut::from_raw_parts(matrix.as_ptr().cast_mut(), rows, cols, matrix.row_stride().unsigned_abs()) }
    }
}

/// An array that was looked at twice, to be written by a kernel.
#[derive(Debug)]
pub(super) struct Target<'a>(Operand<'a>);

impl Deref for Target<'_> {
    type Target = Snapshot;

    #[inline]
    fn deref(&self) -> &Snapshot {
        self.0.seen
    }
}

impl<'a> Target<'a> {
    /// The array of a result, after a second look at it.
    ///
    /// # Safety
    ///
    /// It is writeable, no two of its elements share memory, and it shares none with what the kernel reads, but where
    /// the kernel is told that it works in place, and then reads through this alone; there is no other `Target` of it.
    #[inline]
    pub(super) unsafe fn new(array: &'a NdArray<'_>, op: &str) -> PyResult<Self> {
        array.operand(op).map(Self)
    }

    /// The array of a result that nobody else has seen, so that there is no need to look again.
    ///
    /// # Safety
    ///
    /// As for [`new`](Target::new).
    #[inline(always)]
    pub(super) unsafe fn fresh(array: &'a NdArray<'_>) -> Self {
        Self(Operand { seen: &array.seen })
    }

    /// The elements at these places.
    #[inline]
    pub(super) fn block(&mut self, place: Place) -> BlockMut<'_> {
        BlockMut(self.0.block(place))
    }

    /// A dense array as so many rows and columns.
    #[inline(always)]
    pub(super) fn dense(&mut self, rows: usize, cols: usize) -> BlockMut<'_> {
        BlockMut(self.0.dense(rows, cols))
    }

    /// Matrices of one form at many places, for several threads at once; see [`Operand::matrices`].
    pub(super) fn matrices<T: Element>(self, place: Place, offsets: RangeInclusive<isize>) -> MatricesMut<'a, T> {
        let start = *offsets.start();
        // Where the first could not be written as rows of its type, which is a bug, none can.
        let fits =
            BlockMut(self.0.block(Place { offset: start, ..place })).matrix::<T>().shape() == (place.rows, place.cols);
        let none = Matrices { first: Matrix::from(&[]), offsets: start..=start };
        MatricesMut(if fits { self.0.matrices(place, offsets) } else { none })
    }
}

/// Rows and columns of elements that a kernel may write during `'a`.
#[derive(Debug)]
pub(super) struct BlockMut<'a>(Block<'a>);

impl<'a, T: Element> From<MatrixMut<'a, T>> for BlockMut<'a> {
    fn from(mut matrix: MatrixMut<'a, T>) -> Self {
        let (rows, cols) = matrix.shape();
        let item = size_of::<T>().cast_signed();
        let row_stride = matrix.row_stride().cast_signed().wrapping_mul(item);
        let place = Place { offset: 0, rows, cols, row_stride, col_stride: item };
        let data = matrix.as_mut_ptr().cast();
        Self(Block { data, place, elements: Elements::Floats(T::DTYPE), lifetime: PhantomData })
    }
}

impl<'a> BlockMut<'a> {
    /// The block as a matrix of its own type. Of another type, or where rows are not contiguous or overlap, which is a
    /// bug, it is a matrix without elements.
    ///
    /// A fresh result has not been written yet. Its memory is initialised all the same, as a slice of floats must be:
    /// small ones come from NumPy's allocator, which is C's and thus hands over some bytes or other as far as Rust can
    /// tell, large ones from [`cache`](crate::cache), which has them from the system, zeroed, or from an earlier result.
    /// Any bits are a float, and kernels write an element before they read it.
    #[inline(always)]
    pub(super) fn matrix<T: Element>(self) -> MatrixMut<'a, T> {
        let Place { rows, cols, row_stride, col_stride, .. } = self.0.place;
        let item = size_of::<T>();
        let side_by_side = cols <= 1 || col_stride == item.cast_signed();
        let apart = rows <= 1 || usize::try_from(row_stride).is_ok_and(|stride| stride / item >= cols);
        let typed = self.0.elements == Elements::Floats(T::DTYPE) && self.0.is_aligned(item, align_of::<T>());
        if typed && side_by_side && apart {
            // SAFETY: just seen; the elements lie in a matrix that is borrowed during 'a, or in an array
            // (`Operand::holds`) that is alive during 'a. By the promises of `Target` those that are written or read
            // through this block are so through it alone.
            return unsafe {
                MatrixMut::from_raw_parts(self.0.data.cast(), rows, cols, row_stride.unsigned_abs() / item)
            };
        }
        debug_assert!(self.0.place.is_empty(), "a block that cannot be written as rows of its type");
        MatrixMut::from(&mut [])
    }
}

/// An array that an object keeps, whose elements it reads at each call.
#[derive(Debug)]
pub(super) struct Kept {
    object: Py<PyAny>,
    seen: Snapshot,
    name: &'static str,
    /// Keep NumPy from resizing it; see [`NdArray::pin`].
    #[expect(dead_code, reason = "kept alive")]
    pins: std::vec::Vec<Py<PyAny>>,
}

impl NdArray<'_> {
    /// The array, kept.
    pub(super) fn keep(self) -> PyResult<Kept> {
        let mut pins = Pins::default();
        self.pin(&mut pins)?;
        let mut kept = std::vec::Vec::new();
        kept.try_reserve_exact(pins.0.len()).map_err(|_| super::errors::out_of_memory())?;
        kept.extend(pins.0.into_iter().map(Bound::unbind));
        Ok(Kept { object: self.object.unbind(), seen: self.seen, name: self.name, pins: kept })
    }
}

impl Kept {
    /// Sees that the array's memory is what it was. Its shape does not matter: what was seen of it stays. How many
    /// bytes there are does: `__setstate__` may have put fewer in the same place.
    pub(super) fn look_again(&self, py: Python<'_>, op: &str) -> PyResult<()> {
        let array = fields(self.object.bind(py));
        let len = dims(array).0.iter().fold(1, |len: usize, dim| len.saturating_mul(dim.unsigned_abs()));
        // SAFETY: the descriptor of a live array, read while no foreign code runs.
        let item = usize::try_from(unsafe { npyffi::PyDataType_ELSIZE(py, array.descr) }).unwrap_or(0);
        let bytes = self.seen.len().saturating_mul(self.seen.itemsize());
        if ptr::eq(array.data.cast(), self.seen.data) && len.saturating_mul(item) >= bytes {
            return Ok(());
        }
        let (name, shape) = (self.name, Shape(self.seen.shape()));
        Err(value_error!("{op}: {name}, of shape {shape} when the layer was made, lies elsewhere now"))
    }

    /// The elements of a dense array as numbers of a type that any bytes make.
    ///
    /// # Safety
    ///
    /// The slice is not used after `self` is gone, nor unless [`look_again`](Kept::look_again) has just said Ok: no
    /// foreign code may have run on this thread since.
    pub(super) unsafe fn numbers<T: Element>(&self) -> &'static [T] {
        let len = self.seen.len() * self.seen.itemsize() / size_of::<T>();
        let aligned = (self.seen.data as usize).is_multiple_of(align_of::<T>());
        if len == 0 || !aligned || !self.seen.is_c_contiguous() {
            debug_assert!(len == 0, "numbers of an array that is not dense");
            return &[];
        }
        // SAFETY: dense and aligned, as just seen. It is alive while the slice is used, since `self` owns the array,
        // weak references keep that from being resized, and the caller sees that it has not been given other memory.
        unsafe { slice::from_raw_parts(self.seen.data.cast_const().cast(), len) }
    }
}
