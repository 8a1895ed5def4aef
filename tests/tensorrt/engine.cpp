// Registers a stand-in for torch.classes.tensorrt.Engine: the same name and the same pickled state (a list of strings),
// so that torch itself writes an archive of the real layout without a GPU and without TensorRT.
#include <torch/custom_class.h>
#include <torch/script.h>

struct Engine : torch::CustomClassHolder {
  std::vector<std::string> info;
  explicit Engine(std::vector<std::string> info) : info(std::move(info)) {}
};

static auto registration =
    torch::class_<Engine>("tensorrt", "Engine")
        .def(torch::init<std::vector<std::string>>())
        .def_pickle(
            [](const c10::intrusive_ptr<Engine>& self) { return self->info; },
            [](std::vector<std::string> info) { return c10::make_intrusive<Engine>(std::move(info)); });

TORCH_LIBRARY(tensorrt, m) {
  m.def("execute_engine(Tensor[] input_tensors, __torch__.torch.classes.tensorrt.Engine engine) -> Tensor[]");
}
TORCH_LIBRARY_IMPL(tensorrt, CompositeExplicitAutograd, m) {
  m.impl("execute_engine", [](std::vector<at::Tensor> inputs, c10::intrusive_ptr<Engine>) { return inputs; });
}
