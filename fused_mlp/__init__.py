"""MmDeqSwigluQuantMmDeq: a quantized gated MLP in one kernel.

`reference` is the truth in plain torch, `cpu` the fast version for x86 processors, `triton` the one for GPUs.
The argument names, and the semantics, are those of the vendor's kernel in Ascend Transformer Boost
(hicann/ascend-transformer-boost, src/kernels/mixkernels/gmm_deq_swiglu_quant_gmm_deq).
"""
