//! The two layers with variables that the network is made of.
//!
//! Unlike `tch::nn`'s, they compute in the kind of their input: a network whose variables are float32 runs in
//! bfloat16 when it is given bfloat16, and gradients arrive in float32 (mixed precision, on any device).

use tch::nn::{init, Init, Path};
use tch::{Device, Kind, Tensor};

/// A 2D convolution.
#[derive(Debug)]
pub(super) struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    dilation: i64,
    groups: i64,
    number_format: NumberFormat,
}

/// What a convolution computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberFormat {
    /// Its input's: the weights are converted at every pass, and a trace runs in whatever it is given.
    Input,
    /// Always this one; a trace has the weights as constants.
    Fixed(Kind),
}

/// How a convolution's weights start.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// He-normal over the outputs, bias 0: torchvision's start of MobileNetV3.
    HeFanOut,
    /// PyTorch's default: uniform within 1 / sqrt(inputs of a filter), weight and bias alike.
    Default,
    /// All 0.
    Zero,
}

/// Shape of a convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConvSpec {
    pub inputs: i64,
    pub outputs: i64,
    pub kernel: i64,
    pub stride: i64,
    pub dilation: i64,
    pub groups: i64,
    pub bias: bool,
    pub start: Start,
}

impl ConvSpec {
    /// A 1x1 convolution, stride 1, dense, without bias.
    pub fn pointwise(inputs: i64, outputs: i64, start: Start) -> Self {
        Self { inputs, outputs, kernel: 1, stride: 1, dilation: 1, groups: 1, bias: false, start }
    }
}

impl Conv2d {
    /// Registers `weight` (and `bias`) under `p`; padding keeps the size at stride 1.
    pub fn new(p: Path, spec: ConvSpec) -> Self {
        let fan_in = (spec.inputs / spec.groups * spec.kernel * spec.kernel) as f64;
        let bound = 1.0 / fan_in.sqrt();
        let uniform = Init::Uniform { lo: -bound, up: bound };
        let (weight_start, bias_start) = match spec.start {
            Start::HeFanOut => (
                Init::Kaiming {
                    dist: init::NormalOrUniform::Normal,
                    fan: init::FanInOut::FanOut,
                    non_linearity: init::NonLinearity::ReLU,
                },
                Init::Const(0.0),
            ),
            Start::Default => (uniform, uniform),
            Start::Zero => (Init::Const(0.0), Init::Const(0.0)),
        };
        let shape = [spec.outputs, spec.inputs / spec.groups, spec.kernel, spec.kernel];
        Self {
            weight: p.var("weight", &shape, weight_start),
            bias: spec.bias.then(|| p.var("bias", &[spec.outputs], bias_start)),
            stride: spec.stride,
            padding: (spec.kernel - 1) / 2 * spec.dilation,
            dilation: spec.dilation,
            groups: spec.groups,
            number_format: NumberFormat::Input,
        }
    }

    /// The same convolution followed by a batch norm with its running statistics, as one convolution.
    pub fn with_norm(&self, norm: &BatchNorm2d) -> Self {
        let _no_grad = tch::no_grad_guard();
        // In double precision, so that only one rounding is added to those of the two layers.
        let double = |t: &Tensor| t.to_kind(Kind::Double);
        let scale = double(&norm.weight) / (double(&norm.running_var) + BatchNorm2d::EPS).sqrt();
        let shift = double(&norm.bias) - double(&norm.running_mean) * &scale;
        let bias = self.bias.as_ref().map_or_else(|| shift.copy(), |b| double(b) * &scale + &shift);
        Self {
            weight: (double(&self.weight) * scale.view([-1, 1, 1, 1])).to_kind(Kind::Float),
            bias: Some(bias.to_kind(Kind::Float)),
            ..*self
        }
    }

    /// One convolution over the channels of `self`'s input and then those of `other`'s: the sum of the two.
    pub fn joined(&self, other: &Self) -> Self {
        let _no_grad = tch::no_grad_guard();
        let bias = match (&self.bias, &other.bias) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.as_ref().or(b.as_ref()).map(Tensor::shallow_clone),
        };
        Self { weight: Tensor::cat(&[&self.weight, &other.weight], 1), bias, ..*self }
    }

    /// A handle on the same variables.
    pub fn share(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.as_ref().map(Tensor::shallow_clone), ..*self }
    }

    /// The same weights, computed with in another number format.
    pub fn with_format(&self, number_format: NumberFormat) -> Self {
        let to = |t: &Tensor| match number_format {
            NumberFormat::Input => t.shallow_clone(),
            NumberFormat::Fixed(kind) => t.detach().to_kind(kind),
        };
        Self { weight: to(&self.weight), bias: self.bias.as_ref().map(to), number_format, ..*self }
    }

    /// `[outputs, inputs / groups, kernel, kernel]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[outputs]`, where it has one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// A 1x1 convolution of `[B, inputs]`, as the matrix product that it is.
    pub fn linear(&self, x: &Tensor) -> Tensor {
        x.linear(&self.like(&self.weight, x).flatten(1, -1), self.bias.as_ref().map(|b| self.like(b, x)).as_ref())
    }

    /// As [`Conv2d::forward`], computed in the weights' own number format and answered in the input's.
    pub fn forward_mixed(&self, x: &Tensor) -> Tensor {
        match self.number_format {
            NumberFormat::Fixed(kind) if kind != x.kind() => self.forward(&x.to_kind(kind)).to_kind(x.kind()),
            _ => self.forward(x),
        }
    }

    /// A variable in the number format that `x` is computed with.
    fn like(&self, variable: &Tensor, x: &Tensor) -> Tensor {
        match self.number_format {
            // `type_as` and not `to_kind`: a trace records the latter with the kind and the device that the example had,
            // and would then run in no other kind and on no other device.
            NumberFormat::Input => variable.type_as(x),
            NumberFormat::Fixed(_) => variable.shallow_clone(),
        }
    }

    fn is_scale(&self) -> bool {
        let size = self.weight.size();
        self.groups == size[0] && size[1..] == [1, 1, 1] && self.stride == 1 && self.bias.is_none()
    }

    /// oneDNN has quick depthwise kernels for float32 alone: backwards in bfloat16 it takes 4 to 10 times as long.
    fn is_slow_in_bf16(&self, x: &Tensor) -> bool {
        let is_depthwise = self.groups > 1 && self.number_format == NumberFormat::Input;
        is_depthwise && x.kind() == Kind::BFloat16 && x.device() == Device::Cpu
    }

    /// # Shapes
    /// `[B, inputs, H, W]` to `[B, outputs, ceil(H / stride), ceil(W / stride)]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let weight = self.like(&self.weight, x);
        if self.is_scale() {
            // A depthwise 1x1 convolution is a factor a channel.
            return x * weight.view([1, -1, 1, 1]);
        }
        if self.is_slow_in_bf16(x) {
            return self.forward(&x.to_kind(Kind::Float)).to_kind(Kind::BFloat16);
        }
        x.conv2d(
            &weight,
            self.bias.as_ref().map(|b| self.like(b, x)),
            [self.stride, self.stride],
            [self.padding, self.padding],
            [self.dilation, self.dilation],
            self.groups,
        )
    }
}

/// Batch normalisation over the channels of `[B, C, H, W]`; its own variables and statistics stay float32.
#[derive(Debug)]
pub(super) struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm2d {
    /// torchvision's MobileNetV3 uses 1e-3, not PyTorch's 1e-5.
    const EPS: f64 = 1e-3;
    /// torchvision's 0.01 lags by hundreds of steps; the statistics have to follow shorter trainings than ImageNet's.
    const MOMENTUM: f64 = 0.05;

    /// Registers `weight`, `bias`, `running_mean` and `running_var` under `p`.
    pub fn new(p: Path, channels: i64) -> Self {
        let shape = [channels];
        Self {
            weight: p.var("weight", &shape, Init::Const(1.0)),
            bias: p.var("bias", &shape, Init::Const(0.0)),
            running_mean: p.zeros_no_train("running_mean", &shape),
            running_var: p.ones_no_train("running_var", &shape),
        }
    }

    /// `train` normalises by the batch's own statistics and moves the running ones.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        Tensor::batch_norm(
            x,
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            train,
            Self::MOMENTUM,
            Self::EPS,
            false,
        )
    }
}
