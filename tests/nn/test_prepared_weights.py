"""Prepared weights against the plain form, layer by layer, and their backward pass against finite differences."""

import copy
import dataclasses

import pytest
import torch

from biggan.models import registry
from biggan.models.biggan import BigGANConfig, BigGANDiscriminatorConfig, SAGANConfig, SNGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.nn.layers import Conv2d, Linear, ReparametrizedLayer
from biggan.nn.prepared_weights import NormalizedWeight, PreparedWeights
from biggan.nn.spectral_norm import SpectralNorm, freeze_power_iteration

SMALL = {"resolution": 32, "num_classes": 5}
CONFIGS = {
    "biggan": BigGANConfig(**SMALL, width=8),
    "attention": BigGANConfig(resolution=64, num_classes=5, width=8),
    "deep": BigGANDeepConfig(**SMALL, width=16),
    "sagan": SAGANConfig(**SMALL, width=8),
    "sngan": SNGANConfig(**SMALL, width=8),
    "mlp": BigGANConfig(**SMALL, width=8, conditioning="mlp"),
    "shared with D": BigGANConfig(**SMALL, width=8, class_embedding="shared-with-discriminator"),
    "norms in D": BigGANConfig(**SMALL, width=8, discriminator=BigGANDiscriminatorConfig(norm="conditional-batch")),
    "kernel 5, dilated": BigGANConfig(**SMALL, width=8, discriminator=BigGANDiscriminatorConfig(kernel_size=5, dilation=2)),
}
FORMATS = [torch.channels_last, torch.contiguous_format]


def outputs(config, network, seed):
    """What the network gives for fixed inputs: images, or logits."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor([0, 3, 1, 2])
    dtype = next(network.parameters()).dtype
    if hasattr(network, "synthesize"):
        return network(torch.randn(4, config.z_dim, generator=generator).to(dtype), y)
    images = torch.randn(4, 3, config.resolution, config.resolution, generator=generator).to(dtype)
    return network(images, y).logits


def test_second_derivatives_by_weights_are_refused(generator):
    """They would be wrong: the backward pass takes u, v and sigma as constants."""
    _, network = registry.build_networks(CONFIGS["biggan"], generator)
    weights = PreparedWeights(network, torch.float32)
    weights.prepare()
    weights.attach()
    parameters = [layer.weight for layer in network.modules() if isinstance(layer, Conv2d)]
    gradients = torch.autograd.grad(outputs(CONFIGS["biggan"], network, 0).sum(), parameters, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(gradient.square().sum() for gradient in gradients).backward()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_gradients_and_vectors_are_those_of_the_plain_form(name, memory_format, generator):
    config = CONFIGS[name]
    one_hot = config.class_embedding == "per-class" or config.discriminator.norm == "conditional-batch"
    dtype, tolerance = (torch.float32, 3e-4) if one_hot else (torch.float64, 1e-11)
    for network in registry.build_networks(config, generator):
        network = network.to(dtype).to(memory_format=memory_format)
        with torch.no_grad():  # leading values apart from the rest, gains that matter
            for p in network.parameters():
                p += 0.1 * torch.randn(p.shape, generator=generator).to(p)
        plain = copy.deepcopy(network)
        weights = PreparedWeights(network, dtype)
        for step in range(2):
            weights.prepare()
            weights.attach()
            results = [outputs(config, net, step) for net in (network, plain)]
            assert torch.allclose(*results, rtol=tolerance, atol=tolerance)
            for result in results:
                result.square().sum().backward()
            weights.detach()
            size = max(q.grad.abs().max().item() for q in plain.parameters() if q.grad is not None)
            for (parameter_name, p), q in zip(network.named_parameters(), plain.parameters(), strict=True):
                if q.grad is None:
                    assert p.grad is None, parameter_name
                    continue
                assert torch.allclose(p.grad, q.grad, rtol=0, atol=tolerance * size), parameter_name
                with torch.no_grad():
                    p -= 0.01 * q.grad / size
                    q -= 0.01 * q.grad / size
                p.grad = q.grad = None
            for (buffer_name, u), v in zip(network.named_buffers(), plain.buffers(), strict=True):
                assert torch.allclose(u, v, atol=tolerance), buffer_name


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_gradcheck(resample, memory_format, generator):
    """Against finite differences, u and v held fixed. Unequal numbers of outputs share a group."""
    options = {"reparametrization": lambda outputs: SpectralNorm(outputs, epsilon=1e-12), "resample": resample}
    layers = [Conv2d(3, 4, **options), Conv2d(3, 4, **options), Conv2d(3, 5, **options, computed_outputs=2)]
    layers.append(Linear(27, 3, reparametrization=lambda outputs: SpectralNorm(outputs, epsilon=1e-12)))
    network = torch.nn.ModuleList(layers).double().to(memory_format=memory_format)
    for layer in network:
        torch.nn.init.normal_(layer.weight, generator=generator)
        layer.reparametrization.u.normal_(generator=generator)
    weights = PreparedWeights(network, torch.float64)
    assert len(weights.groups) == 1
    for _ in range(200):  # at the singular vectors, sigma is a function of W alone
        weights.prepare()

    for use in weights.uses:

        def kernels(*matrices, use=use):
            """The kernels of other weights, whose sigma is found anew from the same vectors."""
            with torch.no_grad():
                for layer, matrix in zip(use.members, matrices, strict=True):
                    layer.weight.copy_(matrix)
                vectors = use.right_L1M / use.right_L1M.norm(dim=2, keepdim=True)
                sigma = use.left_L1O @ use.weight_LOM @ vectors.mT
                use.sigma_L11 = sigma
                use.right_norm_L11 = sigma * use.right_L1M.norm(dim=2, keepdim=True)
                use.prepare()
            return NormalizedWeight.apply(use, *matrices)

        inputs = [layer.weight.detach().clone().requires_grad_() for layer in use.members]
        assert torch.autograd.gradcheck(kernels, inputs)


def test_casts_are_those_of_autocast(generator):
    """In bf16 the prepared kernels and biases are what autocast would make of the plain ones, to a rounding."""
    config = dataclasses.replace(CONFIGS["biggan"], width=16)
    network, _ = registry.build_networks(config, generator)
    plain = copy.deepcopy(network)
    weights = PreparedWeights(network, torch.bfloat16)
    weights.prepare()
    weights.attach()
    for layer, reference in zip(network.modules(), plain.modules(), strict=True):
        if isinstance(layer, Conv2d):
            kernel = reference.final_kernel()
            assert layer.final_kernel().dtype == torch.bfloat16
            assert torch.allclose(layer.final_kernel().float(), kernel, rtol=2**-7, atol=1e-6)
            assert layer.bias is None or layer.applied_bias().dtype == torch.bfloat16


def test_no_vector_moves_where_power_iteration_is_frozen(generator):
    network, _ = registry.build_networks(CONFIGS["biggan"], generator)
    weights = PreparedWeights(network, torch.float32)
    before = [buffer.clone() for buffer in network.buffers()]
    with freeze_power_iteration(network):
        weights.prepare()
    assert all(map(torch.equal, before, network.buffers()))
    weights.prepare()
    assert not all(map(torch.equal, before, network.buffers()))


def test_weights_keep_their_values_names_and_layout(generator):
    for memory_format in FORMATS:
        _, network = registry.build_networks(CONFIGS["deep"], generator)
        network = network.to(memory_format=memory_format)
        before = {name: (p.detach().clone(), p.stride()) for name, p in network.named_parameters()}
        weights = PreparedWeights(network, torch.float32)
        for name, p in network.named_parameters():
            assert torch.equal(p, before[name][0])
            assert p.stride() == before[name][1], name
        network.load_state_dict({name: 2 * value for name, value in network.state_dict().items()})
        moved = network.to(torch.float32)  # nothing to do, but other calls replace the tensors of a network
        for layer in moved.modules():
            if isinstance(layer, ReparametrizedLayer):
                layer.weight.data = layer.weight.data.clone()
        weights.prepare()
        assert all(torch.equal(p, 2 * before[name][0]) for name, p in network.named_parameters())
        assert torch.equal(weights.groups[0].weight_LOM[0, 0, :1], weights.groups[0].layers[0].weight.flatten()[:1])
