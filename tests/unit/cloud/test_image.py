"""The body of the temporary image, compared with what nova makes of the same server."""

from __future__ import annotations

from cellmove.cloud import image

METADATA = {
    "image_min_ram": "64",
    "image_min_disk": "1",
    "image_disk_format": "qcow2",
    "image_container_format": "bare",
    "image_base_image_ref": "base",
    "image_hw_disk_bus": "virtio",
    "image_os_glance_import": "x",
    "image_img_signature": "x",
    "image_cache_in_nova": "True",
    "image_img_block_device_mapping": "[]",
    "image_kernel_id": " None ",
    "image_ramdisk_id": "ramdisk",
    "image_image_type": "base",
    "image_user_id": "the-owner",
    "boot_roles": "admin",
    "old_vm_state": "active",
}


def body(shared: bool = False, **more: str) -> dict[str, object]:
    wanted = image.TemporaryImage("an-id", "server", "web", "project", METADATA | more, ("cache_in_nova", "bittorrent"))
    return image.image_body(wanted, user_id="us", shared=shared)


def test_the_image_is_described_as_nova_describes_it() -> None:
    # Made by nova's create_image and image/glance.py from the same metadata; only the id is ours.
    assert body() == {
        "id": "an-id",
        "name": "web-resize-temp",
        "visibility": "private",
        "min_ram": 64,
        "min_disk": 1,
        "base_image_ref": "base",
        "hw_disk_bus": "virtio",
        "ramdisk_id": "ramdisk",
        "boot_roles": "admin",
        "old_vm_state": "active",
        "instance_uuid": "server",
        "user_id": "us",
        "image_type": "snapshot",
    }


def test_an_image_for_another_project_is_shared() -> None:
    assert body(shared=True)["visibility"] == "shared"


def test_the_servers_metadata_cannot_name_the_image() -> None:
    made = body(image_id="evil", image_name="evil", image_visibility="public")
    assert (made["id"], made["name"], made["visibility"]) == ("an-id", "web-resize-temp", "private")
