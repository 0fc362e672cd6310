"""The cloud's REST APIs: thin functions over an openstacksdk connection, nothing remembered."""
