//! Where kernels run: a CUDA device, and in the tests the processor.

use std::fmt::Debug;
use std::ops::Range;

/// A place in the machine's memory.
pub(in crate::frame) type Address = u64;

/// What is compiled together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Program {
    /// What comes before and after a network.
    Frame,
    /// That, and the network.
    Network,
}

impl Program {
    /// Its kernels.
    pub fn kernels(self) -> &'static [Kernel] {
        match self {
            Self::Frame => &Kernel::ALL[..Kernel::FRAME],
            Self::Network => &Kernel::ALL,
        }
    }

    /// Its source: of files without includes, which the compiler's messages are to name.
    pub fn source(self) -> String {
        let files: &[(&str, &str)] = &[
            ("common.cuh", include_str!("common.cuh")),
            ("frame.cu", include_str!("frame.cu")),
            ("network.cu", include_str!("network.cu")),
            ("refine.cu", include_str!("refine.cu")),
        ];
        let count = if self == Self::Frame { 2 } else { files.len() };
        files[..count].iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}")).collect()
    }
}

/// The kernels of `frame.cu`, `network.cu` and `refine.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::frame) enum Kernel {
    Prepare,
    PrepareConverted,
    Best,
    Outputs,
    Narrow,
    Stem,
    Inverted5x1x64,
    Inverted5x1x32,
    Inverted5x2x64,
    Inverted5x2x32,
    Whole1,
    Whole2,
    Product64,
    Product64Factors,
    Product64Enlarged,
    Product32,
    Product32Factors,
    Product32Enlarged,
    Product16,
    Product16Factors,
    Product16Enlarged,
    Chain256,
    Chain256Last,
    Chain64,
    Chain64Last,
    Chain32,
    Chain32Last,
    Quarter4,
    Quarter8,
    Heads3,
    Heads7,
    RefineStart,
    RefineBlock,
    RefineLast,
}

impl Kernel {
    /// The first so many are those of `frame.cu`.
    pub const FRAME: usize = 4;

    pub const ALL: [Self; 34] = [
        Self::Prepare,
        Self::PrepareConverted,
        Self::Best,
        Self::Outputs,
        Self::Narrow,
        Self::Stem,
        Self::Inverted5x1x64,
        Self::Inverted5x1x32,
        Self::Inverted5x2x64,
        Self::Inverted5x2x32,
        Self::Whole1,
        Self::Whole2,
        Self::Product64,
        Self::Product64Factors,
        Self::Product64Enlarged,
        Self::Product32,
        Self::Product32Factors,
        Self::Product32Enlarged,
        Self::Product16,
        Self::Product16Factors,
        Self::Product16Enlarged,
        Self::Chain256,
        Self::Chain256Last,
        Self::Chain64,
        Self::Chain64Last,
        Self::Chain32,
        Self::Chain32Last,
        Self::Quarter4,
        Self::Quarter8,
        Self::Heads3,
        Self::Heads7,
        Self::RefineStart,
        Self::RefineBlock,
        Self::RefineLast,
    ];

    /// In the source.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::PrepareConverted => "prepare_converted",
            Self::Best => "best",
            Self::Outputs => "outputs",
            Self::Narrow => "narrow",
            Self::Stem => "stem",
            Self::Inverted5x1x64 => "inverted5_1_64",
            Self::Inverted5x1x32 => "inverted5_1_32",
            Self::Inverted5x2x64 => "inverted5_2_64",
            Self::Inverted5x2x32 => "inverted5_2_32",
            Self::Whole1 => "whole1",
            Self::Whole2 => "whole2",
            Self::Product64 => "product64",
            Self::Product64Factors => "product64_factors",
            Self::Product64Enlarged => "product64_enlarged",
            Self::Product32 => "product32",
            Self::Product32Factors => "product32_factors",
            Self::Product32Enlarged => "product32_enlarged",
            Self::Product16 => "product16",
            Self::Product16Factors => "product16_factors",
            Self::Product16Enlarged => "product16_enlarged",
            Self::Chain256 => "chain256",
            Self::Chain256Last => "chain256_last",
            Self::Chain64 => "chain64",
            Self::Chain64Last => "chain64_last",
            Self::Chain32 => "chain32",
            Self::Chain32Last => "chain32_last",
            Self::Quarter4 => "quarter4",
            Self::Quarter8 => "quarter8",
            Self::Heads3 => "heads3",
            Self::Heads7 => "heads7",
            Self::RefineStart => "refine_start",
            Self::RefineBlock => "refine_block",
            Self::RefineLast => "refine_last",
        }
    }
}

/// A kernel with its arguments and its grid.
#[derive(Debug, Clone)]
pub(in crate::frame) struct Launch {
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Of a block.
    pub threads: u32,
    /// Bytes of shared memory beyond what the kernel declares itself.
    pub shared: u32,
    /// The kernel's one argument, a structure, as it lies in memory.
    arguments: Vec<u64>,
}

impl Launch {
    /// `arguments` is the twin of the kernel's structure.
    #[allow(unsafe_code)]
    pub fn new<T: Copy>(kernel: Kernel, grid: [usize; 3], threads: u32, arguments: T) -> Self {
        const { assert!(align_of::<T>() <= align_of::<u64>()) }
        let mut bytes = vec![0_u64; size_of::<T>().div_ceil(size_of::<u64>())];
        // SAFETY: the vector is as long as a `T` at least, aligned as one, and nobody else's.
        unsafe { bytes.as_mut_ptr().cast::<T>().write(arguments) };
        Self { kernel, grid: grid.map(|n| n as u32), threads, shared: 0, arguments: bytes }
    }

    pub fn with_shared(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }

    /// One thread for each of `count`.
    pub fn each<T: Copy>(kernel: Kernel, count: usize, arguments: T) -> Self {
        const THREADS: usize = 128;
        Self::new(kernel, [count.div_ceil(THREADS), 1, 1], THREADS as u32, arguments)
    }

    /// Whether a CUDA device takes so many blocks in each direction.
    #[cfg(test)]
    pub fn fits(&self) -> bool {
        const MOST: [u32; 3] = [i32::MAX as u32, 65535, 65535];
        self.grid.iter().zip(MOST).all(|(blocks, most)| (1..=most).contains(blocks))
    }

    /// Where the arguments lie.
    pub fn arguments(&self) -> *const u64 {
        self.arguments.as_ptr()
    }
}

/// What the sizes of blocks are chosen by.
#[derive(Debug, Clone, Copy)]
pub(in crate::frame) struct Capacity {
    /// Blocks that fill the machine.
    pub blocks: usize,
    /// The most bytes of shared memory of a block.
    pub shared: usize,
}

/// Why the machine did not do it: the driver's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CUDA could not {what}: {reason}")]
pub(in crate::frame) struct MachineError {
    pub what: String,
    pub reason: String,
}

/// Memory and kernels. Everything happens in the order in which it is asked for.
pub(in crate::frame) trait Machine: Debug {
    /// Bytes that stay until the machine goes, all zero.
    fn allocate(&self, bytes: usize) -> Result<Address, MachineError>;
    /// Copies into the machine's memory, and returns when that is done.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), MachineError>;
    /// Starts a kernel.
    fn launch(&self, launch: &Launch) -> Result<(), MachineError>;
}

/// Where things are asked for: in one lane they happen in the order in which they were asked for, between lanes only what is
/// waited for is in order. Kernels are in `Work`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::frame) enum Lane {
    /// Kernels, and copies that are to be in order with them.
    Work,
    /// Copies to the device.
    In,
    /// Copies from the device.
    Out,
    /// libtorch's own: what it is asked for while nobody gives it another stream.
    Libtorch,
}

/// Memory on a device.
pub(in crate::frame) trait DeviceMemory: Debug {
    fn at(&self) -> Address;
}

/// Memory of the host that a device copies from and to.
pub(in crate::frame) trait HostMemory: Debug {
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];

    /// As single precision.
    #[allow(unsafe_code)]
    fn floats(&self) -> &[f32] {
        // SAFETY: any bits are a float.
        let (before, floats, _) = unsafe { self.bytes().align_to() };
        assert!(before.is_empty(), "it begins at a multiple of four");
        floats
    }

    /// As single precision.
    #[allow(unsafe_code)]
    fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above; and any float is bytes.
        let (before, floats, _) = unsafe { self.bytes_mut().align_to_mut() };
        assert!(before.is_empty(), "it begins at a multiple of four");
        floats
    }
}

/// A moment of a lane.
pub(in crate::frame) trait Moment: Debug {
    /// Waits until the lane has come to it; not at all where it was never recorded.
    fn wait(&self) -> Result<(), MachineError>;
    /// Milliseconds from another one to this one, both passed.
    fn since(&self, start: &Self) -> Result<f32, MachineError>;
}

/// A machine with memory of its own, which works while the host does something else: what is said to happen later happens
/// when its lane has come to it.
pub(in crate::frame) trait Device: Machine + Send {
    type Buffer: DeviceMemory + Send;
    type Pinned: HostMemory + Send;
    type Event: Moment + Send;
    type Graph: Debug + Send;

    /// To be called before anything else by whoever may be on another thread than before.
    fn enter(&self) -> Result<(), MachineError>;
    /// What the sizes of blocks are chosen by.
    fn capacity(&self) -> Capacity;
    /// Whether it reads and writes the host's memory as quickly as its own, so that nothing need be copied.
    fn shares_memory(&self) -> bool;
    /// Memory that goes with the value, all zero. Whoever lets it go has waited for what uses it: the device need not.
    fn buffer(&self, bytes: usize) -> Result<Self::Buffer, MachineError>;
    /// The same of the host.
    fn pinned(&self, bytes: usize) -> Result<Self::Pinned, MachineError>;
    /// Where kernels find memory of the host.
    fn address_of(&self, pinned: &Self::Pinned) -> Result<Address, MachineError>;
    /// A new moment, not yet in a lane. With `timing` it can tell the time.
    fn event(&self, timing: bool) -> Result<Self::Event, MachineError>;
    /// Puts the moment into a lane.
    fn record(&self, lane: Lane, event: &Self::Event) -> Result<(), MachineError>;
    /// Has a lane wait for the moment as it was last recorded; not at all where it never was.
    fn wait_for(&self, lane: Lane, event: &Self::Event) -> Result<(), MachineError>;
    /// Copies a part of the host's memory to the device, later.
    fn send(&self, lane: Lane, from: &Self::Pinned, part: Range<usize>, to: Address) -> Result<(), MachineError>;
    /// Copies from the device to a part of the host's memory, later.
    fn fetch(&self, lane: Lane, from: Address, to: &mut Self::Pinned, part: Range<usize>) -> Result<(), MachineError>;
    /// Copies within the device, later, in order with the kernels.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), MachineError>;
    /// Waits for everything.
    fn finish(&self) -> Result<(), MachineError>;
    /// Kernels as one graph; `None`, with the reason logged, where none can be made.
    fn graph(&self, launches: &[Launch]) -> Option<Self::Graph>;
    /// Starts a graph.
    fn start(&self, graph: &Self::Graph) -> Result<(), MachineError>;
}
