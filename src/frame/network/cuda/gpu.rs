//! A CUDA device: a stream a lane, the compiled kernels, memory, graphs.

use super::machine::{
    Address, Capacity, Device, DeviceMemory, HostMemory, Kernel, Lane, Launch, Machine, MachineError, Moment, Program,
};
use super::nvrtc;
use crate::tensorrt::cuda::driver;
use cudarc::driver::result::{self, ctx, event, graph, module, primary_ctx, stream};
use cudarc::driver::{sys, DriverError};
use std::cell::RefCell;
use std::ffi::{c_void, CString};
use std::ops::Range;

/// Least compute capability: pairs of half-precision maxima, and tensor cores that multiply m16n8k16.
const LEAST: (u32, u32) = (8, 0);
/// Compute capability from which the kernels can wait for their input themselves.
const OVERLAPS: (u32, u32) = (9, 0);

fn failed(what: &str) -> impl FnOnce(DriverError) -> MachineError + '_ {
    move |error| {
        let reason = match error.0 {
            // The CUDA toolkit's, to link against; cudarc opens what it finds first.
            code @ sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
                format!("{code:?}: a stub libcuda.so is in LD_LIBRARY_PATH; take its folder out of the variable")
            }
            code => format!("{code:?}"),
        };
        MachineError { what: what.into(), reason }
    }
}

/// Lets a kernel have all the shared memory that a block may have; without being asked, the driver gives 48 KiB.
#[allow(unsafe_code)]
fn allow_all_shared(function: sys::CUfunction, most: usize) -> Result<(), DriverError> {
    use sys::CUfunction_attribute_enum as Attribute;
    // SAFETY: a function of a module that is loaded.
    unsafe {
        let own = result::function::get_function_attribute(function, Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let rest = most as i32 - own;
        let which = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        result::function::set_function_attribute(function, which, rest)?;
        // The same division of a multiprocessor's memory for all of them: a kernel that wants another waits until the one
        // before has left.
        let which = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        result::function::set_function_attribute(function, which, 100)
    }
}

/// The device's primary context, which libtorch uses, too. It is kept for the process's life.
#[derive(Debug, Clone, Copy)]
struct Context(sys::CUcontext);

// SAFETY: a context may be current on any thread.
#[allow(unsafe_code)]
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks it itself.
#[allow(unsafe_code)]
unsafe impl Sync for Context {}

impl Context {
    /// Makes it current on this thread.
    #[allow(unsafe_code)]
    fn enter(self) -> Result<(), MachineError> {
        // SAFETY: a primary context that has been retained and is never released.
        unsafe { ctx::set_current(self.0) }.map_err(failed("take the device"))
    }
}

/// Memory on the device.
#[derive(Debug)]
pub(in crate::frame) struct Buffer {
    at: Address,
    context: Context,
}

impl DeviceMemory for Buffer {
    fn at(&self) -> Address {
        self.at
    }
}

impl Drop for Buffer {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: allocated by `Gpu::buffer`, freed once. Nothing uses it any more (see `Device::buffer`): the driver may
        // wait for what does, and need not.
        let _ = self.context.enter().map(|()| unsafe { result::free_sync(self.at) });
    }
}

/// Page-locked memory of the host, which the device reads and writes without a detour.
#[derive(Debug)]
pub(in crate::frame) struct Pinned {
    at: *mut u8,
    bytes: usize,
    context: Context,
}

// SAFETY: plain memory with one owner.
#[allow(unsafe_code)]
unsafe impl Send for Pinned {}

impl HostMemory for Pinned {
    #[allow(unsafe_code)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `bytes` of memory that is ours, zeroed when it was allocated. The device writes to it only between a
        // download and the event that the caller waits for.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }
    }

    #[allow(unsafe_code)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.bytes) }
    }
}

impl Drop for Pinned {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: allocated by `Gpu::pinned`, freed once.
        let _ = self.context.enter().map(|()| unsafe { result::free_host(self.at.cast::<c_void>()) });
    }
}

/// A moment of a stream.
#[derive(Debug)]
pub(in crate::frame) struct Event(sys::CUevent, Context);

// SAFETY: events may be used from any thread on which the context is current.
#[allow(unsafe_code)]
unsafe impl Send for Event {}

impl Moment for Event {
    #[allow(unsafe_code)]
    fn wait(&self) -> Result<(), MachineError> {
        // SAFETY: a valid event.
        unsafe { event::synchronize(self.0) }.map_err(failed("finish"))
    }

    #[allow(unsafe_code)]
    fn since(&self, start: &Self) -> Result<f32, MachineError> {
        // SAFETY: valid events.
        unsafe { event::elapsed(start.0, self.0) }.map_err(failed("tell the time"))
    }
}

impl Drop for Event {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: made by `Gpu::event`, destroyed once.
        let _ = self.1.enter().map(|()| unsafe { event::destroy(self.0) });
    }
}

/// Kernels that start together.
#[derive(Debug)]
pub(in crate::frame) struct Graph(sys::CUgraphExec, Context);

// SAFETY: as events.
#[allow(unsafe_code)]
unsafe impl Send for Graph {}

impl Drop for Graph {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: made by `Gpu::graph`, destroyed once.
        let _ = self.1.enter().map(|()| unsafe { graph::exec_destroy(self.0) });
    }
}

/// What is destroyed with the device. Null: not made.
#[derive(Debug)]
struct Handles {
    context: Context,
    /// In the order of [`Lane`], without libtorch's.
    streams: [sys::CUstream; 3],
    module: sys::CUmodule,
}

impl Drop for Handles {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: made in `Gpu::open`, destroyed once, when nothing has them any more; what the streams still have to do is
        // done first.
        let _ = self.context.enter().map(|()| unsafe {
            for stream in self.streams.into_iter().filter(|stream| !stream.is_null()) {
                let _ = stream::synchronize(stream);
                let _ = stream::destroy(stream);
            }
            if !self.module.is_null() {
                let _ = module::unload(self.module);
            }
        });
    }
}

/// A CUDA device with streams of its own.
#[derive(Debug)]
pub(in crate::frame) struct Gpu {
    context: Context,
    /// By kernel; null: not of the program.
    functions: [sys::CUfunction; Kernel::ALL.len()],
    /// Whether kernels may begin while the one before ends.
    overlaps: bool,
    capacity: Capacity,
    shares_memory: bool,
    handles: Handles,
    /// What [`Machine::allocate`] gave. Behind the handles, which go when the streams have done everything.
    memory: RefCell<Vec<Buffer>>,
}

// SAFETY: functions belong to the module, which `handles` keeps; as events.
#[allow(unsafe_code)]
unsafe impl Send for Gpu {}

impl Gpu {
    /// Compiles a program's kernels for it. `zero_copy`: whether they work in the host's memory; `None`: where the device
    /// has none of its own.
    ///
    /// # Errors
    /// In words: no driver, no such device, too old a one, no compiler.
    #[allow(unsafe_code)]
    pub(super) fn open(index: usize, program: Program, zero_copy: Option<bool>) -> Result<Self, String> {
        // cudarc panics where there is no driver.
        let gpus = driver().map_err(|e| e.to_string())?.gpus;
        let gpu = gpus.get(index).ok_or_else(|| format!("the CUDA driver sees {} devices", gpus.len()))?;
        let found = (gpu.compute_capability.major, gpu.compute_capability.minor);
        if found < LEAST {
            let ((major, minor), (least, of_least)) = (found, LEAST);
            return Err(format!(
                "its kernels need compute capability {least}.{of_least} or more, and {} has {major}.{minor}",
                gpu.name
            ));
        }
        let code = nvrtc::machine_code(program, &format!("sm_{}{}", found.0, found.1))?;
        let words = |what: &'static str| move |e: DriverError| failed(what)(e).to_string();
        result::init().map_err(words("start"))?;
        let device = result::device::get(index as i32).map_err(words("open the device"))?;
        let attribute = |which| {
            // SAFETY: a device that the driver has just given.
            let value = unsafe { result::device::get_attribute(device, which) };
            value.map(|value| value.max(0) as usize).map_err(words("describe the device"))
        };
        let is_integrated = attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0;
        let capacity = Capacity {
            blocks: attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
            shared: attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        // SAFETY: as above.
        let context = Context(unsafe { primary_ctx::retain(device) }.map_err(words("take the device"))?);
        context.enter().map_err(|e| e.to_string())?;
        // Before what it owns, so that nothing is left where a later one cannot be made.
        let mut handles = Handles { context, streams: [std::ptr::null_mut(); 3], module: std::ptr::null_mut() };
        for stream in &mut handles.streams {
            *stream = stream::create(stream::StreamKind::NonBlocking).map_err(words("make a stream"))?;
        }
        // SAFETY: the compiler's own machine code, with its length in its header; it is copied.
        handles.module = unsafe { module::load_data(code.as_ptr().cast()) }.map_err(words("load the kernels"))?;
        let mut functions = [std::ptr::null_mut(); Kernel::ALL.len()];
        for &kernel in program.kernels() {
            let function = &mut functions[kernel as usize];
            let name = CString::new(kernel.name()).map_err(|e| e.to_string())?;
            // SAFETY: the module has just been loaded.
            *function = unsafe { module::get_function(handles.module, name) }.map_err(words("find a kernel"))?;
            allow_all_shared(*function, capacity.shared).map_err(words("give a kernel shared memory"))?;
        }
        let shares_memory = zero_copy.unwrap_or(is_integrated);
        let (overlaps, memory) = (found >= OVERLAPS, RefCell::default());
        Ok(Self { context, functions, overlaps, capacity, shares_memory, handles, memory })
    }

    fn stream(&self, lane: Lane) -> sys::CUstream {
        match lane {
            // The default stream of the context that is current.
            Lane::Libtorch => std::ptr::null_mut(),
            Lane::Work | Lane::In | Lane::Out => self.handles.streams[lane as usize],
        }
    }
}

impl Device for Gpu {
    type Buffer = Buffer;
    type Pinned = Pinned;
    type Event = Event;
    type Graph = Graph;

    fn enter(&self) -> Result<(), MachineError> {
        self.context.enter()
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn shares_memory(&self) -> bool {
        self.shares_memory
    }

    #[allow(unsafe_code)]
    fn address_of(&self, pinned: &Pinned) -> Result<Address, MachineError> {
        self.enter()?;
        let mut at = 0;
        // SAFETY: page-locked memory of this context.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut at, pinned.at.cast::<c_void>(), 0) }
            .result()
            .map_err(failed("address page-locked memory"))?;
        Ok(at)
    }

    #[allow(unsafe_code)]
    fn buffer(&self, bytes: usize) -> Result<Buffer, MachineError> {
        self.enter()?;
        let bytes = bytes.max(16);
        let what = format!("allocate {bytes} bytes");
        // SAFETY: it is set to zero before anybody reads it.
        unsafe {
            let at = result::malloc_sync(bytes).map_err(failed(&what))?;
            let buffer = Buffer { at, context: self.context };
            result::memset_d8_async(at, 0, bytes, self.stream(Lane::Work)).map_err(failed(&what))?;
            // Another lane may be the first to use it.
            stream::synchronize(self.stream(Lane::Work)).map_err(failed(&what))?;
            Ok(buffer)
        }
    }

    #[allow(unsafe_code)]
    fn pinned(&self, bytes: usize) -> Result<Pinned, MachineError> {
        self.enter()?;
        let bytes = bytes.max(16);
        let what = format!("allocate {bytes} page-locked bytes");
        // SAFETY: it is set to zero before anybody reads it.
        unsafe {
            let at = result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP).map_err(failed(&what))?.cast::<u8>();
            std::ptr::write_bytes(at, 0, bytes);
            Ok(Pinned { at, bytes, context: self.context })
        }
    }

    fn event(&self, timing: bool) -> Result<Event, MachineError> {
        self.enter()?;
        let flags =
            if timing { sys::CUevent_flags::CU_EVENT_DEFAULT } else { sys::CUevent_flags::CU_EVENT_DISABLE_TIMING };
        Ok(Event(event::create(flags).map_err(failed("make an event"))?, self.context))
    }

    #[allow(unsafe_code)]
    fn record(&self, lane: Lane, event: &Event) -> Result<(), MachineError> {
        // SAFETY: a valid event and stream.
        unsafe { event::record(event.0, self.stream(lane)) }.map_err(failed("record an event"))
    }

    #[allow(unsafe_code)]
    fn wait_for(&self, lane: Lane, event: &Event) -> Result<(), MachineError> {
        // SAFETY: a valid event and stream.
        unsafe { stream::wait_event(self.stream(lane), event.0, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
            .map_err(failed("wait for an event"))
    }

    #[allow(unsafe_code)]
    fn send(&self, lane: Lane, from: &Pinned, part: Range<usize>, to: Address) -> Result<(), MachineError> {
        // SAFETY: the part lies in `from` (a slice), which page-locks it; the caller does not change it before an event
        // recorded after this has passed, and `to` has room for it.
        unsafe { result::memcpy_htod_async(to, &from.bytes()[part], self.stream(lane)) }
            .map_err(failed("copy to the device"))
    }

    #[allow(unsafe_code)]
    fn fetch(&self, lane: Lane, from: Address, to: &mut Pinned, part: Range<usize>) -> Result<(), MachineError> {
        // SAFETY: as in `send`.
        unsafe { result::memcpy_dtoh_async(&mut to.bytes_mut()[part], from, self.stream(lane)) }
            .map_err(failed("copy from the device"))
    }

    #[allow(unsafe_code)]
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), MachineError> {
        // SAFETY: the caller's memory on this device, at least as long.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream(Lane::Work)) }
            .map_err(failed("copy on the device"))
    }

    #[allow(unsafe_code)]
    fn finish(&self) -> Result<(), MachineError> {
        // SAFETY: valid streams.
        let finish = |stream| unsafe { stream::synchronize(stream) }.map_err(failed("finish"));
        self.handles.streams.into_iter().try_for_each(finish)
    }

    #[allow(unsafe_code)]
    fn graph(&self, launches: &[Launch]) -> Option<Graph> {
        let capture = || -> Result<Graph, MachineError> {
            self.enter()?;
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            // SAFETY: a valid stream. The capture is ended on every way, and what was captured is destroyed: it is not needed
            // once it is instantiated.
            unsafe {
                stream::begin_capture(self.stream(Lane::Work), mode).map_err(failed("begin a graph"))?;
                let launched = launches.iter().try_for_each(|launch| self.launch(launch));
                let captured = stream::end_capture(self.stream(Lane::Work)).map_err(failed("end a graph"));
                let made = launched.and_then(|()| {
                    let flags = sys::CUgraphInstantiate_flags_enum(0);
                    graph::instantiate(captured.clone()?, flags).map_err(failed("make a graph"))
                });
                if let Ok(captured) = captured {
                    let _ = graph::destroy(captured);
                }
                let made = Graph(made?, self.context);
                graph::upload(made.0, self.stream(Lane::Work)).map_err(failed("upload a graph"))?;
                Ok(made)
            }
        };
        capture().inspect_err(|e| log::warn!("kernels are started one by one: {e}")).ok()
    }

    #[allow(unsafe_code)]
    fn start(&self, graph: &Graph) -> Result<(), MachineError> {
        // SAFETY: a valid graph and stream; what its kernels read and write lives as long as `self`.
        unsafe { graph::launch(graph.0, self.stream(Lane::Work)) }.map_err(failed("start the network"))
    }
}

impl Machine for Gpu {
    fn allocate(&self, bytes: usize) -> Result<Address, MachineError> {
        let buffer = self.buffer(bytes)?;
        let at = buffer.at;
        self.memory.borrow_mut().push(buffer);
        Ok(at)
    }

    #[allow(unsafe_code)]
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), MachineError> {
        self.enter()?;
        let work = self.stream(Lane::Work);
        // SAFETY: the caller's memory of `allocate` or `buffer`, at least as long; `bytes` stay until the copy has been made.
        unsafe {
            // In the kernels' stream, in order with them, and waited for: what CUDA calls a synchronous copy is made in
            // another stream, for which ours do not wait, and may not be over yet when the call returns.
            result::memcpy_htod_async(to, bytes, work).map_err(failed("copy to the device"))?;
            stream::synchronize(work).map_err(failed("copy to the device"))
        }
    }

    #[allow(unsafe_code)]
    fn launch(&self, launch: &Launch) -> Result<(), MachineError> {
        let function = self.functions[launch.kernel as usize];
        let what = || format!("start the kernel {}", launch.kernel.name());
        if function.is_null() {
            return Err(MachineError { what: what(), reason: "it is not of the program that was compiled".into() });
        }
        let [x, y, z] = launch.grid;
        // SAFETY: the function's one parameter is the structure that the launch has, with addresses of this device's memory.
        unsafe {
            let mut parameters = [launch.arguments().cast_mut().cast::<c_void>()];
            // The next kernel may come onto the device while this one works: each waits for its input itself.
            let mut overlap = sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            let config = sys::CUlaunchConfig {
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: launch.threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: launch.shared,
                hStream: self.stream(Lane::Work),
                attrs: &raw mut overlap,
                numAttrs: u32::from(self.overlaps),
            };
            sys::cuLaunchKernelEx(&raw const config, function, parameters.as_mut_ptr(), std::ptr::null_mut())
                .result()
                .map_err(failed(&what()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_of_the_driver_is_told_from_a_driver_that_fails() {
        let message = |code| failed("start")(DriverError(code)).to_string();
        let stub = message(sys::CUresult::CUDA_ERROR_STUB_LIBRARY);
        assert!(stub.contains("CUDA_ERROR_STUB_LIBRARY: a stub libcuda.so is in LD_LIBRARY_PATH"), "{stub}");
        let memory = message(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(memory, "CUDA could not start: CUDA_ERROR_OUT_OF_MEMORY");
    }
}
