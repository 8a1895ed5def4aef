//! The output topics of one camera.
//!
//! Large messages are published from our own buffers: the message points at them while it is sent, and nothing is
//! copied before the middleware does.

use super::arrival::Header;
use crate::frame::cloud::{Cloud, Field, FIELDS, POINT_STEP};
use crate::frame::png::{COMPRESSED_DEPTH_FORMAT, DEPTH_FORMAT, LABELS_FORMAT};
use crate::interface::topics::{self, Topic};
use anyhow::Context as _;
use r2r::semantic_depth::msg::FrameTiming;
use r2r::sensor_msgs::msg::{CameraInfo, CompressedImage, Image, PointCloud2, PointField};
use r2r::{NativeMsg, Node, Publisher, QosProfile, WrappedTypesupport};

/// Whether anybody subscribes. An error of the middleware counts as yes: work too much rather than too little.
pub fn is_heard<T: WrappedTypesupport + 'static>(publisher: &Publisher<T>) -> bool {
    publisher.get_inter_process_subscription_count().map_or(true, |n| n > 0)
}

/// A publisher with a message in C memory that is filled anew for each frame.
pub struct Native<T: WrappedTypesupport> {
    publisher: Publisher<T>,
    message: NativeMsg<T>,
    frame_id: String,
}

// SAFETY: the message is a plain C structure on the C heap that this value owns alone; it was made here, not loaned.
#[allow(unsafe_code)]
unsafe impl<T: WrappedTypesupport> Send for Native<T> {}

impl<T: WrappedTypesupport + 'static> Native<T> {
    /// Whether anybody subscribes.
    pub fn is_heard(&self) -> bool {
        is_heard(&self.publisher)
    }
}

/// Sends `$self.message` with `$header`, its `data` pointing at `$data`.
macro_rules! publish_from {
    ($self:ident, $header:expr, $data:expr) => {{
        let (header, data): (&Header, &mut [u8]) = ($header, $data);
        let m = &mut $self.message;
        m.header.stamp.sec = header.sec;
        m.header.stamp.nanosec = header.nanosec;
        if $self.frame_id != header.frame_id {
            // It came in a C string, so it has no NUL in it.
            m.header.frame_id.assign(&header.frame_id);
            $self.frame_id.clone_from(&header.frame_id);
        }
        // The message must never free our buffer: its own triple is put back before anything else happens.
        // `publish_native` neither unwinds nor keeps the pointer (the middleware serialises before it returns).
        let own = (m.data.data, m.data.size, m.data.capacity);
        (m.data.data, m.data.size, m.data.capacity) = (data.as_mut_ptr(), data.len(), data.len());
        let result = $self.publisher.publish_native(m);
        let m = &mut $self.message;
        (m.data.data, m.data.size, m.data.capacity) = own;
        result
    }};
}

impl Native<Image> {
    fn image(publisher: Publisher<Image>) -> Self {
        Self { publisher, message: NativeMsg::new(), frame_id: String::new() }
    }

    /// `data`: rows of `row_bytes`, without padding, in this machine's byte order.
    pub fn publish(
        &mut self,
        header: &Header,
        encoding: &str,
        (w, h): (usize, usize),
        row_bytes: usize,
        data: &mut [u8],
    ) -> r2r::Result<()> {
        let m = &mut self.message;
        if m.encoding.to_str() != encoding {
            m.encoding.assign(encoding);
        }
        (m.width, m.height, m.step) = (w as u32, h as u32, row_bytes as u32);
        m.is_bigendian = u8::from(cfg!(target_endian = "big"));
        publish_from!(self, header, data)
    }
}

impl Native<CompressedImage> {
    fn compressed(publisher: Publisher<CompressedImage>, format: &str) -> Self {
        let mut message = NativeMsg::<CompressedImage>::new();
        message.format.assign(format);
        Self { publisher, message, frame_id: String::new() }
    }

    /// `data`: the whole file.
    pub fn publish(&mut self, header: &Header, data: &mut [u8]) -> r2r::Result<()> {
        publish_from!(self, header, data)
    }
}

impl Native<PointCloud2> {
    fn cloud(publisher: Publisher<PointCloud2>) -> Self {
        let field =
            |f: &Field| PointField { name: f.name.into(), offset: f.offset, datatype: f.datatype, count: f.count };
        let layout = PointCloud2 {
            fields: FIELDS.iter().map(field).collect(),
            is_bigendian: false,
            point_step: POINT_STEP,
            ..PointCloud2::default()
        };
        Self { publisher, message: NativeMsg::from(&layout), frame_id: String::new() }
    }

    /// The whole cloud.
    pub fn publish(&mut self, header: &Header, cloud: &mut Cloud) -> r2r::Result<()> {
        let m = &mut self.message;
        (m.width, m.height, m.is_dense) = (cloud.width, cloud.height, cloud.is_dense);
        m.row_step = cloud.width * POINT_STEP;
        publish_from!(self, header, &mut cloud.data)
    }
}

/// The topics.
pub struct Publishers {
    /// Class ids.
    pub labels: Native<Image>,
    /// The same, PNG.
    pub labels_compressed: Native<CompressedImage>,
    /// Metres or millimetres.
    pub depth: Native<Image>,
    /// Millimetres, PNG.
    pub depth_compressed: Native<CompressedImage>,
    /// Millimetres, PNG behind compressed_depth_image_transport's header.
    pub depth_compressed_depth: Native<CompressedImage>,
    /// Probability of the label.
    pub confidence: Native<Image>,
    /// Class colours over the picture.
    pub overlay: Native<Image>,
    /// Class colours.
    pub labels_color: Native<Image>,
    /// Free, obstacle, neither.
    pub mask: Native<Image>,
    /// Semantic point cloud.
    pub points: Native<PointCloud2>,
    /// Calibration of the outputs.
    pub camera_info: Publisher<CameraInfo>,
    /// Where the time went.
    pub timing: Publisher<FrameTiming>,
    /// What the ids mean.
    #[cfg(has_vision_msgs)]
    pub label_info: Publisher<r2r::vision_msgs::msg::LabelInfo>,
}

impl Publishers {
    /// Creates them for a camera; `qos` gives the quality of service of a private topic name that is in
    /// [`crate::interface::TOPICS`].
    ///
    /// # Errors
    /// A topic cannot be published.
    pub fn create(node: &mut Node, camera: &str, qos: &dyn Fn(&Topic, &str) -> QosProfile) -> anyhow::Result<Self> {
        fn publisher<T: WrappedTypesupport + 'static>(
            node: &mut Node,
            (camera, name): (&str, &str),
            qos: &dyn Fn(&Topic, &str) -> QosProfile,
        ) -> anyhow::Result<Publisher<T>> {
            let topic = topics::find(name).with_context(|| format!("{name} is not in the table of topics"))?;
            let name = topic.name_for(camera);
            node.create_publisher(&name, qos(topic, &name)).with_context(|| format!("cannot publish {name}"))
        }
        macro_rules! output {
            ($name:literal) => {
                publisher(node, (camera, concat!("~/output/", $name)), qos)?
            };
        }
        Ok(Self {
            labels: Native::image(output!("labels")),
            labels_compressed: Native::compressed(output!("labels/compressed"), LABELS_FORMAT),
            depth: Native::image(output!("depth")),
            depth_compressed: Native::compressed(output!("depth/compressed"), DEPTH_FORMAT),
            depth_compressed_depth: Native::compressed(output!("depth/compressedDepth"), COMPRESSED_DEPTH_FORMAT),
            confidence: Native::image(output!("confidence")),
            overlay: Native::image(output!("overlay")),
            labels_color: Native::image(output!("labels_color")),
            mask: Native::image(output!("mask")),
            points: Native::cloud(output!("points")),
            camera_info: output!("camera_info"),
            timing: output!("timing"),
            #[cfg(has_vision_msgs)]
            label_info: output!("label_info"),
        })
    }

    /// Takes the topics off the graph.
    pub fn destroy(self, node: &mut Node) {
        for image in [self.labels, self.depth, self.confidence, self.overlay, self.labels_color, self.mask] {
            node.destroy_publisher(image.publisher);
        }
        for compressed in [self.labels_compressed, self.depth_compressed, self.depth_compressed_depth] {
            node.destroy_publisher(compressed.publisher);
        }
        node.destroy_publisher(self.points.publisher);
        node.destroy_publisher(self.camera_info);
        node.destroy_publisher(self.timing);
        #[cfg(has_vision_msgs)]
        node.destroy_publisher(self.label_info);
    }
}
