#include "host.h"
#include "kernels.cu"

HOST_KERNEL(prepare, Prepare)
HOST_KERNEL(narrow, Narrow)
HOST_KERNEL(stem, Stem)
HOST_KERNEL(depthwise3, Depthwise)
HOST_KERNEL(depthwise5, Depthwise)
HOST_KERNEL(excite, Excite)
HOST_KERNEL(product, Product)
HOST_KERNEL(pool, Pool)
HOST_KERNEL(quarter, Quarter)
HOST_KERNEL(heads, Heads)
HOST_KERNEL(classes, Classes)
HOST_KERNEL(outputs, Outputs)
