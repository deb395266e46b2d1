from core.controlvideo.bench import attention, memory


def test_folded_and_replicated_attention_are_one():
    found = attention(F=3, N=16, C=16, rounds=1)
    assert float(found["largest difference"]) < 1e-5
    assert float(found["ratio to SDPA"]) > 0


def test_the_memory_of_a_stream_is_measured():
    found = memory(stream=True, size=24)
    assert list(found) == ["8 frames (MB)", "32 frames (MB)", "128 frames (MB)"]
    assert not any(float(v) < 0 for v in found.values())
