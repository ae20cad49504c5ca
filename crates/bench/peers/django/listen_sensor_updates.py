"""The recipe's listener worker. Its LISTEN is a Redis channel here, so that PostgreSQL is in nobody's way: the other
peers' changes do not come from there either. What it does with a message is the recipe's."""

import asyncio
import json
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django.setup()

import redis.asyncio  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402


async def main():
    layer = get_channel_layer()
    async with redis.asyncio.from_url(os.environ["REDIS_URL"]).pubsub() as updates:
        await updates.subscribe("sensor_updates")
        async for message in updates.listen():
            if message["type"] == "message":
                event = {"type": "sensor_update", "data": json.loads(message["data"])}
                await layer.group_send("sensor_group", event)


asyncio.run(main())
