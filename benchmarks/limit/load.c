/* The load: pairs of users who write to each other as fast as the server lets them.

   Strategy: one thread, epoll, and for each readiness event one recv and one send. Everything that a frame asks for is done on the
   connection on which it came: an answer or a receipt frees a place in its own user's window, a message is receipted to its own
   sender. So a user is a row of counters, and no message is kept but its number, its seq and the time of its sending. A message is
   in flight until the receipt of its delivery has reached its sender; so each makes all six packets.

   With a rate, messages leave by a timetable, user after user, and one that has to wait, for its user's window or for this program,
   counts as sent when it was due: otherwise a server that stalls would be asked less just then ("coordinated omission", G. Tene).

   The number that a sender gives its messages (1, 2, 3, …) travels in the client id. Each receiver expects the next one: a lower
   one came twice or too late, a higher one means that something is missing. benchmarks/load_loop.py is the same in Python.

   On stdout: one JSON object with what was measured. If the load could not be brought to its end: one line on
   stderr, and status 1, or 2 if the server's own bounds rule the load out. */

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"

#define EVENTS 1024
#define SECOND 1000000000ull
#define SETTLE (SECOND / 5)      /* between the last login and the look at the idle memory */
#define UID_SIZE 16              /* room for "u" and a number */
#define BUCKETS (64 * 64)        /* 64 for each power of two: 1.6% wide */
#define HELLO_ID 1               /* request ids: sessions and receipts are odd, messages even (twice their number) */
#define LOGIN_ID 3
#define LOGOUT_ID 5
#define FIRST_RECEIPT_ID 7
#define VERSION_7 (7ull << 12)   /* RFC 9562: the version's and the variant's bits of a UUIDv7 */
#define VARIANT (2ull << 62)

struct flight {
    uint64_t seq; /* 0 until the server has answered */
    uint64_t sent_at;
};

struct user {
    int fd;
    bool blocked, live, ended;
    uint8_t uid_size, uid[UID_SIZE];
    uint8_t *kept; /* the beginning of a frame whose end has not come */
    size_t kept_size;
    uint8_t *tail; /* what the socket did not take */
    size_t tail_size;
    uint32_t sent, done;     /* numbers of the newest message sent, and of the newest that is no longer in flight */
    uint32_t expected;       /* the number that the partner's next message must have */
    uint64_t conversation;   /* 0 until the first answer */
    uint64_t accepted_seq;   /* of one's own newest accepted message */
    uint64_t received_seq;   /* of the partner's newest message */
    uint64_t receipted_seq;  /* up to where the partner has receipted */
    uint64_t notifies, acked;
    uint32_t receipt_id;
    uint16_t half_window;
    struct flight *flights; /* of message n at n % window */
};

static int failure = 1; /* the status of a failure; 2 if the server's own bounds rule this load out */
static int port, pid, window = 1, logins = 64;
static uint32_t user_count, payload = 100;
static double seconds = 1, warmup = 1, patience = 30;
static double interval; /* nanoseconds between two messages of all users; 0 as fast as the window lets them go */

static int poller;
static struct user *users;
static uint8_t *content;
static uint8_t arena[READ_SIZE + HEADER_SIZE + DEFAULT_MAX_BODY];
static uint8_t *out; /* what the frames of one read ask for */
static size_t out_size, out_room;
static uint64_t now, last_frame_at, clock_offset_ms; /* nanoseconds, monotonic; and what makes them wall time */
static uint32_t connected, live, ended;
static bool sending, ending, measuring;
static uint64_t pace_began, slot; /* of the timetable: its start, and the next place in it */
static uint64_t sent, accepted, delivered, receipted, receipts, receipts_told, duplicates, faults;
static uint64_t histogram[BUCKETS];
static char first_fault[200];

static void fail(const char *form, ...)
{
    va_list arguments;
    va_start(arguments, form);
    fputs("load: ", stderr);
    vfprintf(stderr, form, arguments);
    fputc('\n', stderr);
    exit(failure);
}

/* Something that must not be, but does not end the run. */
static void fault(struct user *user, const char *what, uint64_t got, uint64_t wanted)
{
    if (!faults++)
        snprintf(first_fault, sizeof first_fault, "u%d: %s: %llu, where %llu was expected", (int)(user - users), what,
                 (unsigned long long)got, (unsigned long long)wanted);
}

static void *claimed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory)
        fail("out of memory");
    return memory;
}

static uint64_t nanoseconds(clockid_t id)
{
    struct timespec clock;
    clock_gettime(id, &clock);
    return clock.tv_sec * SECOND + clock.tv_nsec;
}

/* The server's CPU so far, user and system, all threads, in seconds. */
static double server_cpu(void)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file)
        fclose(file);
    text[size] = 0;
    char *after_name = strrchr(text, ')');
    unsigned long user, system;
    if (!after_name || sscanf(after_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        fail("the server (process %d) is gone", pid);
    return (double)(user + system) / sysconf(_SC_CLK_TCK);
}

static double server_rss_kib(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *file = fopen(path, "r");
    unsigned long pages;
    if (!file || fscanf(file, "%*u %lu", &pages) != 1)
        fail("the server (process %d) is gone", pid);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024.0);
}

static double own_cpu(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int bucket_of(uint64_t value)
{
    if (value < 64)
        return value;
    int exponent = 63 - __builtin_clzll(value);
    return (exponent - 5) * 64 + (value >> (exponent - 6) & 63);
}

/* The middle of a bucket, in milliseconds. */
static double bucket_ms(int bucket)
{
    if (bucket < 64)
        return bucket / 1e6;
    return (64 + bucket % 64 + 0.5) * (1ull << (bucket / 64 - 1)) / 1e6;
}

static double percentile_ms(double share)
{
    uint64_t total = 0, below = 0;
    for (int i = 0; i < BUCKETS; i++)
        total += histogram[i];
    for (int i = 0; i < BUCKETS; i++)
        if (total && (below += histogram[i]) >= share * total)
            return bucket_ms(i);
    return 0;
}

static void reserve(size_t size)
{
    if (out_size + size <= out_room)
        return;
    out_room = 2 * (out_size + size);
    out = realloc(out, out_room);
    if (!out)
        fail("out of memory");
}

static uint8_t *begin(uint32_t length, uint32_t tag, uint32_t request_id)
{
    reserve(HEADER_SIZE + length);
    uint8_t *body = put_header(out + out_size, length, tag, request_id, 0);
    out_size += HEADER_SIZE + length;
    return body;
}

static void watch(struct user *user, int operation, bool writable)
{
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = user};
    epoll_ctl(poller, operation, user->fd, &event);
    user->blocked = writable;
}

static void keep(uint8_t **place, size_t *size, const uint8_t *data, size_t count)
{
    uint8_t *copy = NULL;
    if (count) {
        copy = claimed(1, count);
        memcpy(copy, data, count);
    }
    free(*place);
    *place = copy;
    *size = count;
}

/* Sends what was collected; what the socket does not take waits for it. */
static void flush(struct user *user)
{
    size_t older = user->tail_size;
    if (!older && !out_size)
        return;
    if (older) {
        reserve(older);
        memmove(out + older, out, out_size);
        memcpy(out, user->tail, older);
        out_size += older;
    }
    ssize_t taken = send(user->fd, out, out_size, MSG_NOSIGNAL);
    if (taken < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ENOTCONN)
            fail("u%d: the connection broke: %s", (int)(user - users), strerror(errno));
        taken = 0;
    }
    if (older || (size_t)taken != out_size)
        keep(&user->tail, &user->tail_size, out + taken, out_size - taken);
    out_size = 0;
    if ((user->tail_size != 0) != user->blocked)
        watch(user, EPOLL_CTL_MOD, user->tail_size != 0);
}

static struct user *partner_of(struct user *user)
{
    return &users[(user - users) ^ 1];
}

static uint64_t due_at(uint64_t place)
{
    return pace_began + (uint64_t)(place * interval);
}

static void send_message(struct user *user, uint64_t due)
{
    uint32_t number = ++user->sent;
    struct user *partner = partner_of(user);
    uint8_t target_size = user->conversation ? 0 : partner->uid_size;
    uint8_t *body = begin(SIZE_REQUEST_MESSAGE + target_size + payload, TAG_REQUEST_MESSAGE, number << 1);
    uint8_t *client_id = body + AT_REQUEST_MESSAGE_CLIENT_ID;
    put64(client_id, (now / 1000000 + clock_offset_ms) << 16 | VERSION_7);
    put64(client_id + 8, VARIANT | (uint64_t)(user - users) << 32 | number);
    put64(body + AT_REQUEST_MESSAGE_CONVERSATION, user->conversation);
    body[AT_REQUEST_MESSAGE_CONTENT_TYPE] = CONTENT_TYPE_BINARY;
    put32(body + AT_REQUEST_MESSAGE_LIFE, 0);
    body[AT_REQUEST_MESSAGE_TARGET_SIZE] = target_size;
    memcpy(body + SIZE_REQUEST_MESSAGE, partner->uid, target_size);
    memcpy(body + SIZE_REQUEST_MESSAGE + target_size, content, payload);
    user->flights[number % window] = (struct flight){0, due};
    sent++;
}

/* As many messages as the window lets go, and the timetable if there is one; a single one until the conversation has a name. */
static void fill_window(struct user *user)
{
    uint32_t most = user->conversation ? (uint32_t)window : 1;
    while (sending && user->sent - user->done < most) {
        uint64_t due = interval ? due_at((uint64_t)user->sent * user_count + (user - users)) : now;
        if (due > now)
            break;
        send_message(user, due);
    }
}

/* Takes out of flight what is accepted and receipted, oldest first, and sends as many. */
static void end_flights(struct user *user)
{
    while (user->done != user->sent) {
        uint64_t seq = user->flights[(user->done + 1) % window].seq;
        if (!seq || seq > user->receipted_seq)
            break;
        user->done++;
        receipted++;
    }
    fill_window(user);
}

static void on_accepted(struct user *user, uint32_t request_id, const uint8_t *body)
{
    uint32_t number = request_id >> 1;
    uint64_t conversation = get64(body + AT_RESPONSE_MESSAGE_CONVERSATION), seq = get64(body + AT_RESPONSE_MESSAGE_SEQ);
    struct flight *flight = &user->flights[number % window];
    if (request_id & 1 || number - user->done - 1 >= user->sent - user->done || flight->seq)
        fail("u%d: an answer to request %u, which is not waiting for one", (int)(user - users), request_id);
    if (user->conversation && conversation != user->conversation)
        fault(user, "conversation of an answer", conversation, user->conversation);
    if (seq <= user->accepted_seq)
        fault(user, "seq of an answer", seq, user->accepted_seq + 1);
    user->conversation = conversation;
    user->accepted_seq = flight->seq = seq;
    accepted++;
    end_flights(user);
}

static void on_message(struct user *user, const uint8_t *body, uint32_t size)
{
    struct user *partner = partner_of(user);
    const uint8_t *client_id = body + AT_NOTIFY_MESSAGE_CLIENT_ID, *sender = body + SIZE_NOTIFY_MESSAGE;
    uint64_t conversation = get64(body + AT_NOTIFY_MESSAGE_CONVERSATION), seq = get64(body + AT_NOTIFY_MESSAGE_SEQ);
    uint64_t half = get64(client_id + 8);
    uint32_t number = (uint32_t)half, origin = half >> 32 & 0x3fffffff;
    if (size != SIZE_NOTIFY_MESSAGE + partner->uid_size + payload || memcmp(sender, partner->uid, partner->uid_size) ||
        memcmp(sender + partner->uid_size, content, payload) || origin != (uint32_t)(partner - users))
        fault(user, "sender of a message, or its content", origin, partner - users);
    if (user->conversation && conversation != user->conversation)
        fault(user, "conversation of a message", conversation, user->conversation);
    if (number == user->expected) {
        if (seq <= user->received_seq)
            fault(user, "seq of a message", seq, user->received_seq + 1);
        user->received_seq = seq;
        user->expected++;
        delivered++;
        if (measuring)
            histogram[bucket_of(now - partner->flights[number % window].sent_at)]++;
    } else if (number - user->expected < 1u << 31) {
        fault(user, "number of a message (some are missing)", number, user->expected);
        user->expected = number + 1;
        delivered++;
    } else {
        duplicates++;
    }
    uint8_t *receipt = begin(SIZE_REQUEST_RECEIPT, TAG_REQUEST_RECEIPT, user->receipt_id);
    user->receipt_id += 2;
    put64(receipt + AT_REQUEST_RECEIPT_CONVERSATION, conversation);
    put64(receipt + AT_REQUEST_RECEIPT_SEQ, seq);
    receipt[AT_REQUEST_RECEIPT_TYPE] = RECEIPT_TYPE_DELIVERED;
    receipts++;
}

static void on_receipt(struct user *user, const uint8_t *body)
{
    uint64_t conversation = get64(body + AT_NOTIFY_RECEIPT_CONVERSATION), seq = get64(body + AT_NOTIFY_RECEIPT_SEQ);
    if (user->conversation && conversation != user->conversation)
        fault(user, "conversation of a receipt", conversation, user->conversation);
    if (seq <= user->receipted_seq)
        fault(user, "seq of a receipt", seq, user->receipted_seq + 1);
    else
        user->receipted_seq = seq;
    receipts_told++;
    end_flights(user);
}

static void send_hello(void)
{
    uint8_t *body = begin(SIZE_REQUEST_HELLO + 4, TAG_REQUEST_HELLO, HELLO_ID);
    memset(body, 0, SIZE_REQUEST_HELLO);
    body[AT_REQUEST_HELLO_MIN_VERSION] = body[AT_REQUEST_HELLO_MAX_VERSION] = WIRE_VERSION;
    memcpy(body + SIZE_REQUEST_HELLO, "load", 4);
}

static void on_hello(struct user *user, const uint8_t *body)
{
    unsigned notifies = body[AT_RESPONSE_HELLO_WINDOW] << 8 | body[AT_RESPONSE_HELLO_WINDOW + 1];
    unsigned requests = body[AT_RESPONSE_HELLO_REQUESTS] << 8 | body[AT_RESPONSE_HELLO_REQUESTS + 1];
    if (2u * window > requests || 4u * window > notifies) {
        failure = 2;
        fail("the server takes %u requests and sends %u notifies unanswered: choose a window of at most %u", requests, notifies,
             requests / 2 < notifies / 4 ? requests / 2 : notifies / 4);
    }
    user->half_window = notifies / 2;
    uint8_t *login = begin(SIZE_REQUEST_LOGIN + user->uid_size, TAG_REQUEST_LOGIN, LOGIN_ID);
    memset(login, 0, SIZE_REQUEST_LOGIN);
    login[AT_REQUEST_LOGIN_METHOD] = LOGIN_METHOD_ANONYMOUS;
    put64(login + AT_REQUEST_LOGIN_DEVICE, 1);
    put64(login + AT_REQUEST_LOGIN_DEVICE + 8, user - users + 1);
    login[AT_REQUEST_LOGIN_UID_SIZE] = user->uid_size;
    memcpy(login + SIZE_REQUEST_LOGIN, user->uid, user->uid_size);
}

static uint32_t least_size(uint32_t tag)
{
    switch (tag) {
    case TAG_RESPONSE_HELLO:
        return SIZE_RESPONSE_HELLO;
    case TAG_RESPONSE_LOGIN:
        return SIZE_RESPONSE_LOGIN;
    case TAG_RESPONSE_MESSAGE:
        return SIZE_RESPONSE_MESSAGE;
    case TAG_NOTIFY_MESSAGE:
        return SIZE_NOTIFY_MESSAGE;
    case TAG_NOTIFY_RECEIPT:
        return SIZE_NOTIFY_RECEIPT;
    case TAG_NOTIFY_DISCONNECT:
        return SIZE_NOTIFY_DISCONNECT;
    default:
        return 0;
    }
}

static void take(struct user *user, uint32_t tag, uint32_t request_id, uint32_t word, const uint8_t *body, uint32_t size)
{
    int index = user - users;
    if (word & 0xffff)
        fail("u%d: the server answers a request of command 0x%04x with status %u: %.*s", index, tag & 0xffff, word & 0xffff,
             size > SIZE_ERROR ? (int)(size - SIZE_ERROR) : 0, (const char *)body + SIZE_ERROR);
    if (size < least_size(tag))
        fail("u%d: a frame (0x%08x) of %u bytes, which is too short", index, tag, size);
    if ((tag >> 16 & 0xff) == KIND_NOTIFY)
        user->notifies++;
    switch (tag) {
    case TAG_NOTIFY_MESSAGE:
        on_message(user, body, size);
        break;
    case TAG_RESPONSE_MESSAGE:
        on_accepted(user, request_id, body);
        break;
    case TAG_NOTIFY_RECEIPT:
        on_receipt(user, body);
        break;
    case TAG_RESPONSE_RECEIPT:
        receipts--;
        break;
    case TAG_RESPONSE_HELLO:
        on_hello(user, body);
        break;
    case TAG_RESPONSE_LOGIN:
        user->live = true;
        live++;
        break;
    case TAG_RESPONSE_LOGOUT:
        user->ended = true;
        ended++;
        break;
    case TAG_REQUEST_PING:
        put64(begin(SIZE_RESPONSE_PING, TAG_RESPONSE_PING, request_id), now / 1000000 + clock_offset_ms);
        break;
    case TAG_NOTIFY_SYNC:
        fail("u%d: the server has left notifies out (\"behind\"): this machine is too slow for the load, choose fewer users", index);
        break;
    case TAG_NOTIFY_DISCONNECT:
        if (!user->ended)
            fail("u%d: the server ends the connection, code %u: %.*s", index,
                 body[AT_NOTIFY_DISCONNECT_CODE] << 8 | body[AT_NOTIFY_DISCONNECT_CODE + 1], (int)(size - SIZE_NOTIFY_DISCONNECT),
                 (const char *)body + SIZE_NOTIFY_DISCONNECT);
        break;
    default:
        if ((tag >> 16 & 0xff) != KIND_NOTIFY)
            fail("u%d: an unexpected frame, 0x%08x", index, tag);
    }
}

static void on_readable(struct user *user)
{
    if (user->kept_size)
        memcpy(arena, user->kept, user->kept_size);
    ssize_t got = recv(user->fd, arena + user->kept_size, READ_SIZE, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        if (!user->ended)
            fail("u%d: the server has closed the connection", (int)(user - users));
        close(user->fd);
        return;
    }
    now = last_frame_at = nanoseconds(CLOCK_MONOTONIC);
    size_t at = 0, end = user->kept_size + got;
    while (end - at >= HEADER_SIZE) {
        uint32_t length = get32(arena + at);
        if (length > DEFAULT_MAX_BODY)
            fail("u%d: a frame of %u bytes", (int)(user - users), length);
        if (end - at - HEADER_SIZE < length)
            break;
        take(user, get32(arena + at + 4), get32(arena + at + 8), get32(arena + at + 12), arena + at + HEADER_SIZE, length);
        at += HEADER_SIZE + length;
    }
    if (user->kept_size || at != end)
        keep(&user->kept, &user->kept_size, arena + at, end - at);
    if (user->notifies - user->acked >= user->half_window && user->live && !ending) {
        put64(begin(SIZE_NOTIFY_WINDOW, TAG_NOTIFY_WINDOW, 0) + AT_NOTIFY_WINDOW_COUNT, user->notifies);
        user->acked = user->notifies;
    }
    flush(user);
}

/* Whatever is due leaves, if its user's window has room. */
static void pace(void)
{
    for (; due_at(slot) <= now; slot++) {
        struct user *user = &users[slot % user_count];
        fill_window(user);
        if (out_size)
            flush(user);
    }
}

/* One turn, at most until the given moment. */
static void turn(uint64_t until)
{
    static struct epoll_event events[EVENTS];
    now = nanoseconds(CLOCK_MONOTONIC);
    if (sending && interval) {
        pace();
        if (due_at(slot) < until)
            until = due_at(slot);
        now = nanoseconds(CLOCK_MONOTONIC);
        if (until > now) { /* epoll_wait counts in milliseconds */
            struct timespec left = {(until - now) / SECOND, (until - now) % SECOND};
            ppoll(&(struct pollfd){poller, POLLIN, 0}, 1, &left, NULL);
        }
        until = now;
    }
    int count = epoll_wait(poller, events, EVENTS, until > now ? (until - now) / 1000000 + 1 : 0);
    if (count < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct user *user = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            flush(user);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            on_readable(user);
    }
    now = nanoseconds(CLOCK_MONOTONIC);
}

static void run_for(double duration)
{
    uint64_t until = nanoseconds(CLOCK_MONOTONIC) + duration * SECOND;
    while (nanoseconds(CLOCK_MONOTONIC) < until)
        turn(until);
}

static void connect_user(struct user *user)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    user->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (user->fd < 0)
        fail("a socket for u%d: %s", (int)(user - users), strerror(errno));
    setsockopt(user->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(user->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        fail("u%d cannot connect: %s", (int)(user - users), strerror(errno));
    send_hello();
    keep(&user->tail, &user->tail_size, out, out_size); /* leaves when the connection is there */
    out_size = 0;
    watch(user, EPOLL_CTL_ADD, true);
}

/* Turns until a condition holds, as long as frames come; false if they have stopped coming. */
#define TURN_UNTIL(condition, step)                                         \
    ({                                                                      \
        last_frame_at = nanoseconds(CLOCK_MONOTONIC);                       \
        bool held;                                                          \
        for (;;) {                                                          \
            step;                                                           \
            held = (condition);                                             \
            if (held || now > last_frame_at + patience * SECOND)            \
                break;                                                      \
            turn(last_frame_at + patience * SECOND);                        \
        }                                                                   \
        held;                                                               \
    })

static void connect_some(void)
{
    while (connected < user_count && connected - live < (uint32_t)logins)
        connect_user(&users[connected++]);
}

static bool drained(void)
{
    for (uint32_t i = 0; i < user_count; i++)
        if (users[i].done != users[i].sent)
            return false;
    return receipts == 0;
}

static void read_options(int count, char **words)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},    {"pid", required_argument, NULL, 'i'},     {"users", required_argument, NULL, 'u'},
        {"window", required_argument, NULL, 'w'},  {"payload", required_argument, NULL, 'b'}, {"seconds", required_argument, NULL, 's'},
        {"warmup", required_argument, NULL, 'a'},  {"logins", required_argument, NULL, 'l'},  {"patience", required_argument, NULL, 't'},
        {"rate", required_argument, NULL, 'r'},    {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;)
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'i': pid = atoi(optarg); break;
        case 'u': user_count = atoi(optarg); break;
        case 'w': window = atoi(optarg); break;
        case 'b': payload = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'a': warmup = atof(optarg); break;
        case 'l': logins = atoi(optarg); break;
        case 'r': interval = atof(optarg) > 0 ? SECOND / atof(optarg) : 0; break;
        case 't': patience = atof(optarg); break;
        default: exit(2);
        }
    if (port < 1 || pid < 1 || user_count < 2 || user_count % 2 || window < 1 || logins < 1 || seconds <= 0 || patience <= 0 ||
        payload > DEFAULT_MAX_BODY - SIZE_NOTIFY_MESSAGE - UID_SIZE)
        fail("--port, --pid, an even number of --users, --window, --payload, --seconds, --warmup, --logins and --patience are needed");
}

int main(int count, char **words)
{
    read_options(count, words);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* never outlives who started it, however that one ends */
    poller = epoll_create1(EPOLL_CLOEXEC);
    now = nanoseconds(CLOCK_MONOTONIC);
    clock_offset_ms = (nanoseconds(CLOCK_REALTIME) - now) / 1000000;
    content = claimed(1, payload + 1);
    for (uint32_t i = 0; i < payload; i++)
        content[i] = 'a' + i % 26;
    users = claimed(user_count, sizeof *users);
    for (uint32_t i = 0; i < user_count; i++) {
        users[i].uid_size = snprintf((char *)users[i].uid, UID_SIZE, "u%u", i);
        users[i].expected = 1;
        users[i].receipt_id = FIRST_RECEIPT_ID;
        users[i].flights = claimed(window, sizeof(struct flight));
    }

    double rss_before = server_rss_kib();
    uint64_t login_began = now;
    if (!TURN_UNTIL(live == user_count, connect_some()))
        fail("%u of %u users are logged in, and nothing has come for %g s", live, user_count, patience);
    double login_seconds = (double)(now - login_began) / SECOND;
    run_for((double)SETTLE / SECOND);
    double rss_after = server_rss_kib();

    sending = true;
    pace_began = now;
    for (uint32_t i = 0; i < user_count; i++) {
        fill_window(&users[i]);
        flush(&users[i]);
    }
    run_for(warmup);
    measuring = true;
    uint64_t began = nanoseconds(CLOCK_MONOTONIC), delivered_before = delivered;
    double cpu_before = server_cpu(), own_before = own_cpu();
    run_for(seconds);
    (void)TURN_UNTIL(delivered > delivered_before, (void)0); /* a machine that stood still has more time: no figures come of nothing */
    uint64_t delivered_meanwhile = delivered - delivered_before;
    double cpu = server_cpu() - cpu_before, own = own_cpu() - own_before;
    double measured = (double)(nanoseconds(CLOCK_MONOTONIC) - began) / SECOND;
    measuring = sending = false;

    bool whole = TURN_UNTIL(drained(), (void)0);
    if (whole) {
        ending = true;
        for (uint32_t i = 0; i < user_count; i++) {
            begin(SIZE_REQUEST_LOGOUT, TAG_REQUEST_LOGOUT, LOGOUT_ID);
            flush(&users[i]);
        }
        if (!TURN_UNTIL(ended == user_count, (void)0))
            fail("%u of %u users are logged out, and nothing has come for %g s", ended, user_count, patience);
    }

    double per_message = delivered_meanwhile ? 1e6 / delivered_meanwhile : 0;
    printf("{\"driver\": \"c\", \"users\": %u, \"window\": %d, \"payload\": %u, \"seconds\": %.3f, ", user_count, window, payload, measured);
    printf("\"delivered_per_s\": %.1f, \"cpu_us_per_message\": %.3f, \"load_cpu_us_per_message\": %.3f, ",
           delivered_meanwhile / measured, cpu * per_message, own * per_message);
    printf("\"server_core_share\": %.3f, \"load_core_share\": %.3f, ", cpu / measured, own / measured);
    printf("\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"p999_ms\": %.4f, ", percentile_ms(0.5), percentile_ms(0.99), percentile_ms(0.999));
    printf("\"rss_kib_per_connection\": %.3f, \"logins_per_s\": %.1f, ", (rss_after - rss_before) / user_count,
           user_count / login_seconds);
    printf("\"sent\": %llu, \"accepted\": %llu, \"delivered\": %llu, \"receipted\": %llu, \"receipts_told\": %llu, ",
           (unsigned long long)sent, (unsigned long long)accepted, (unsigned long long)delivered, (unsigned long long)receipted,
           (unsigned long long)receipts_told);
    printf("\"duplicates\": %llu, \"errors\": %llu, \"first_error\": \"%s\"}\n", (unsigned long long)duplicates,
           (unsigned long long)faults, first_fault);
    return 0;
}
