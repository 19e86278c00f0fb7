"""What desktops are told of Torpor: its entry in the menu, and the type of its files.

Texts only: a package puts them under `/usr/share`, `registration.py` under a user's own folder.
Source: the Desktop Entry Specification 1.5 and the Shared MIME-info Specification 0.21.
"""

from __future__ import annotations

from collections.abc import Sequence

from .entry_text import exec_value, string_value

NAME = "torpor"
ENTRY_FILE, TYPE_FILE, ICON_FILE = f"{NAME}.desktop", f"{NAME}.xml", f"{NAME}.svg"
MEDIA_TYPE = "application/x-qwnbak"


def desktop_entry(command: Sequence[str]) -> str:
    """Return the menu's entry: the dashboard, and what is done with files of ours. `command` is how torpor is called.

    `--` stands before the files, so that none of them is taken for an option.
    """
    return "\n".join(
        (
            "[Desktop Entry]",
            "Type=Application",
            "Name=Torpor",
            "GenericName=Session backups",
            "GenericName[zh_CN]=会话备份",
            "Comment=Sessions of models that sleep on disk, and files of them",
            "Comment[zh_CN]=休眠在磁盘上的模型会话及其文件",
            f"TryExec={string_value(command[0])}",
            f"Exec={exec_value((*command, 'open', '--'), '%F')}",
            f"Icon={NAME}",
            "Terminal=false",
            "StartupNotify=false",
            "Categories=Utility;Archiving;",
            "Keywords=backup;session;model;restore;",
            "Keywords[zh_CN]=备份;会话;模型;恢复;",
            f"MimeType={MEDIA_TYPE};",
            "",
        )
    )


def media_type() -> str:
    """Return the type of `.qwnbak` files: by their name, or by how they begin.

    A v1 file is an LZ4 frame of JSON, whose first key stands unpacked at its beginning; a bundle is a tar whose first
    member has one name. Both would otherwise be taken for archives of those kinds.
    """
    return _MEDIA_TYPE


_MEDIA_TYPE = f"""\
<?xml version="1.0" encoding="UTF-8"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="{MEDIA_TYPE}">
    <comment>Torpor session backup</comment>
    <comment xml:lang="zh_CN">Torpor 会话备份</comment>
    <icon name="{NAME}"/>
    <generic-icon name="package-x-generic"/>
    <magic priority="80">
      <match type="string" value="qwen-state-v2/manifest.qwnbak" offset="0"/>
      <match type="little32" value="0x184D2204" offset="0">
        <match type="string" value="{{&quot;metadata&quot;:" offset="11:28"/>
        <match type="string" value="{{&quot;config_snapshot&quot;:" offset="11:28"/>
      </match>
    </magic>
    <glob pattern="*.qwnbak" weight="60"/>
  </mime-type>
</mime-info>
"""
