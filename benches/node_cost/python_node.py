"""The node that one would write in an afternoon with rclpy, NumPy and PyTorch: labels and depth of camera images.

The same inputs, model folder, definition of the answer and outputs as semantic_depth_node has; run.py compares the two.
Written to be quick by the means that rclpy and PyTorch offer: no copy on the way in, the network's input channels last
as it prefers, inference mode, `frombytes` into the message as cv_bridge does it.
"""

import array
import pathlib
import time

import numpy as np
import rclpy
import rclpy.executors
import rclpy.node
import torch
import torch.nn.functional as F
import yaml
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from semantic_depth.msg import FrameTiming
from sensor_msgs.msg import Image
from std_msgs.msg import UInt64


class PythonNode(rclpy.node.Node):
    def __init__(self):
        super().__init__("semantic_depth")
        folder = pathlib.Path(self.declare_parameter("model_path", "").value)
        torch.set_num_threads(self.declare_parameter("num_threads", 1).value)
        # "full": arg-max of the enlarged scores, as semantic_depth defines it. "network": of the network's own, enlarged.
        self.argmax = self.declare_parameter("argmax", "full").value
        cameras = self.declare_parameter("cameras", rclpy.Parameter.Type.STRING_ARRAY).value or [""]
        self.manifest = yaml.safe_load((folder / "model.yaml").read_text())
        self.model = torch.jit.load(folder / self.manifest["torchscript"]).eval()
        self.size = self.manifest["input"]["height"], self.manifest["input"]["width"]
        mean, std = (torch.tensor(self.manifest["input"][k]).view(1, 3, 1, 1) for k in ("mean", "std"))
        self.scale, self.bias = 1 / (255 * std), -mean / std
        self.ids = torch.tensor([c["id"] for c in self.manifest["classes"]], dtype=torch.uint8)
        with torch.inference_mode():
            for _ in range(3):  # the first runs specialise and optimise the graph
                self.model(torch.zeros(1, 3, *self.size).contiguous(memory_format=torch.channels_last))
        self.network_cpu_ns, self.sequence = 0, {}
        newest = QoSProfile(depth=1, reliability=qos_profile_sensor_data.reliability)
        for name in cameras:
            base = f"~/{name}/" if name else "~/"
            out = {k: self.create_publisher(t, f"{base}output/{k}", 5) for k, t in
                   {"labels": Image, "depth": Image, "timing": FrameTiming, "network_cpu": UInt64}.items()}
            self.create_subscription(Image, f"{base}input/image", lambda m, n=name, o=out: self.answer(m, n, o), newest)
        self.get_logger().info("ready")

    @torch.inference_mode()
    def answer(self, message, camera, out):
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)[:, : 3 * message.width]
        pixels = torch.from_numpy(pixels.reshape(message.height, message.width, 3)).permute(2, 0, 1)[None].float()
        if message.encoding[:3] != self.manifest["input"]["channel_order"]:
            pixels = pixels.flip(1)
        halved = message.height >= 2 * self.size[0] and message.width >= 2 * self.size[1]
        image = F.interpolate(pixels, self.size, mode="area" if halved else "bilinear").mul_(self.scale).add_(self.bias)
        wall, cpu = time.monotonic_ns(), time.thread_time_ns()
        packed = self.model(image.contiguous(memory_format=torch.channels_last))
        infer_ns, cpu = time.monotonic_ns() - wall, time.thread_time_ns() - cpu
        size, o = (message.height, message.width), self.manifest["output"]
        scores, code = packed[:, : o["score_channels"]], packed[:, o["depth_channel"] :][:, :1]
        if self.argmax == "full":
            channel = F.interpolate(scores, size, mode="bilinear").argmax(1)
        else:
            channel = F.interpolate(scores.argmax(1, keepdim=True).to(torch.uint8), size, mode="nearest")[:, 0].long()
        labels = self.ids[channel][0].numpy()
        code = F.interpolate(code, size, mode="bilinear")[0, 0]
        d = o["depth"]
        depth = code.mul(d["scale"]).exp_().clamp_(d["min_m"], d["max_m"]).numpy()
        for name, encoding, data in (("labels", "mono8", labels), ("depth", "32FC1", depth)):
            answer = Image(header=message.header, height=size[0], width=size[1], encoding=encoding, step=data.strides[0])
            answer._data = array.array("B")
            answer._data.frombytes(data.tobytes())  # as cv_bridge; setting `data` would copy once more
            out[name].publish(answer)
        self.network_cpu_ns += cpu
        self.sequence[camera] = self.sequence.get(camera, 0) + 1
        out["network_cpu"].publish(UInt64(data=self.network_cpu_ns))
        out["timing"].publish(FrameTiming(header=message.header, camera=camera, sequence=self.sequence[camera],
                                          infer_ns=infer_ns, batch_size=1, backend="torch", device="cpu"))


rclpy.init()
try:
    rclpy.spin(PythonNode())
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
