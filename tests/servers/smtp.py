"""A mail server that takes mail only through STARTTLS or TLS and from a user with a password, and prints what it got.

smtp.py FOLDER MODE: writes ca.pem into FOLDER and prints the port, then one JSON object a mail. MODE: starttls, tls.
"""

import asyncio
import email
import email.policy
import json
import ssl
import sys

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


class Handler:
    def __init__(self):
        self.refusals = 1

    async def handle_DATA(self, server, session, envelope):
        if self.refusals:
            self.refusals -= 1
            return "451 not now, try again"
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = {part.get_content_type(): part.get_content() for part in mail.walk() if not part.is_multipart()}
        print(json.dumps({
            "from": envelope.mail_from, "to": envelope.rcpt_tos, "subject": mail["subject"],
            "text": parts.get("text/plain"), "html": parts.get("text/html"),
            "encrypted": server.transport.get_extra_info("ssl_object") is not None, "user": session.auth_data.login.decode(),
        }), flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, given):
    good = isinstance(given, LoginPassword) and given.login == b"sluicebox" and given.password == b"mail-secret-1234"
    return AuthResult(success=good, auth_data=given)


async def main(folder, mode):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(f"{folder}/ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    handler = Handler()

    def session():
        common = {"authenticator": authenticate, "auth_required": True, "hostname": "localhost"}
        if mode == "starttls":
            return SMTP(handler, tls_context=context, require_starttls=True, **common)
        return SMTP(handler, auth_require_tls=False, **common)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(session, "127.0.0.1", 0, ssl=context if mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main(sys.argv[1], sys.argv[2]))
