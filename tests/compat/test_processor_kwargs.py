from tests import tiny

from vlmkit.compat.processor_kwargs import images_kwargs


def test_keywords_of_images_come_with_the_defaults_of_the_processor():
    processor = tiny.smolvlm_processor()
    defaults = images_kwargs(processor)
    kwargs = images_kwargs(processor, do_resize=False, padding=True)
    assert kwargs == {**defaults, "do_resize": False}
    assert "padding" not in kwargs


def test_keywords_may_be_grouped_by_modality():
    kwargs = images_kwargs(tiny.smolvlm_processor(), images_kwargs={"do_resize": False}, text_kwargs={"padding": True})
    assert kwargs["do_resize"] is False
    assert "padding" not in kwargs
