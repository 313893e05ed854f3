//! One of Quelay's clients: calls, and a callback service.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ::thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TInputProtocol, TMessageIdentifier, TMessageType, TOutputProtocol,
    TType,
};

use crate::thrift::types::StreamInfo;
use crate::thrift::wire;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the service.
pub(crate) struct Caller {
    pub(crate) socket: TcpStream,
    strict: bool,
    sequence: i32,
}

/// Fields of a struct that was read, by id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Number(i64),
    Double(f64),
    Text(String),
    Map(BTreeMap<String, String>),
    List(Vec<String>),
    Struct(Fields),
}

pub(crate) type Fields = BTreeMap<i16, Value>;

impl Caller {
    pub(crate) fn connect(at: SocketAddr, strict: bool) -> Self {
        let socket = TcpStream::connect(at).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, strict, sequence: 0 }
    }

    /// A call with these arguments; the result's field 0, or the exception.
    pub(crate) fn call(
        &mut self,
        name: &str,
        arguments: impl FnOnce(&mut dyn TOutputProtocol) -> ::thrift::Result<()>,
    ) -> Result<Option<Value>, (i64, String)> {
        self.sequence += 1;
        let mut o = TBinaryOutputProtocol::new(Vec::new(), self.strict);
        o.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Call, self.sequence)).unwrap();
        wire::write_struct(&mut o, "args", arguments).unwrap();
        self.socket.write_all(&o.transport).unwrap();
        let mut i = TBinaryInputProtocol::new(&self.socket, self.strict);
        let header = i.read_message_begin().unwrap();
        assert_eq!((header.name.as_str(), header.sequence_number), (name, self.sequence));
        let mut fields = read_fields(&mut i);
        match header.message_type {
            TMessageType::Reply => Ok(fields.remove(&0)),
            TMessageType::Exception => match (fields.remove(&2), fields.remove(&1)) {
                (Some(Value::Number(kind)), Some(Value::Text(reason))) => Err((kind, reason)),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn plain(&mut self, name: &str) -> Option<Value> {
        self.call(name, |_| Ok(())).unwrap()
    }

    /// Empty = success.
    pub(crate) fn set_callback(&mut self, endpoint: &str) -> String {
        match self.call("set_callback", |o| wire::write_string(o, 1, endpoint)).unwrap() {
            Some(Value::Text(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Status and position.
    pub(crate) fn stream_start(
        &mut self,
        id: u128,
        size_bytes: Option<i64>,
        priority: i8,
    ) -> Result<(i64, Option<i64>), (i64, String)> {
        let attrs = BTreeMap::from([("filename".to_owned(), "x".to_owned())]);
        let info = StreamInfo { size_bytes, attrs };
        let uuid = uuid::Uuid::from_u128(id).to_string();
        let answer = self.call("stream_start", |o| {
            wire::write_string(o, 1, &uuid)?;
            wire::write_field(o, 2, TType::Struct, |o| wire::write_info(o, &info))?;
            wire::write_field(o, 3, TType::I08, |o| o.write_i8(priority))
        })?;
        let Some(Value::Struct(mut fields)) = answer else { panic!("{answer:?}") };
        let mut number = |id| match fields.remove(&id) {
            Some(Value::Number(n)) => Some(n),
            None => None,
            other => panic!("{other:?}"),
        };
        Ok((number(1).unwrap(), number(2)))
    }
}

fn read_fields(i: &mut dyn TInputProtocol) -> Fields {
    let mut fields = Fields::new();
    wire::read_struct(i, |i, id, kind| {
        fields.insert(id, read_value(i, kind));
        Ok(true)
    })
    .unwrap();
    fields
}

fn read_value(i: &mut dyn TInputProtocol, kind: TType) -> Value {
    match kind {
        TType::I32 => Value::Number(i.read_i32().unwrap().into()),
        TType::I64 => Value::Number(i.read_i64().unwrap()),
        TType::Double => Value::Double(i.read_double().unwrap()),
        TType::String => Value::Text(i.read_string().unwrap()),
        TType::Struct => Value::Struct(read_fields(i)),
        TType::List => {
            let size = i.read_list_begin().unwrap().size;
            Value::List((0..size).map(|_| i.read_string().unwrap()).collect())
        }
        TType::Map => {
            let size = i.read_map_begin().unwrap().size;
            Value::Map((0..size).map(|_| (i.read_string().unwrap(), i.read_string().unwrap())).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// A callback service: what it was told, in order. Pings are answered, and told as well.
pub(crate) struct Service {
    pub(crate) endpoint: String,
    told: Receiver<(String, Fields)>,
}

impl Service {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, tell) = (socket.unwrap(), tell.clone());
                std::thread::spawn(move || {
                    let mut i = TBinaryInputProtocol::new(BufReader::new(&socket), true);
                    while let Ok(header) = i.read_message_begin() {
                        let fields = read_fields(&mut i);
                        if header.message_type == TMessageType::Call {
                            let mut o = TBinaryOutputProtocol::new(Vec::new(), true);
                            let reply = TMessageIdentifier::new(
                                header.name.as_str(),
                                TMessageType::Reply,
                                header.sequence_number,
                            );
                            o.write_message_begin(&reply).unwrap();
                            wire::write_struct(&mut o, "result", |_| Ok(())).unwrap();
                            (&socket).write_all(&o.transport).unwrap();
                        }
                        if tell.send((header.name, fields)).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { endpoint, told }
    }

    /// The next event.
    pub(crate) fn next(&self) -> (String, Fields) {
        self.told.recv_timeout(PATIENCE).expect("an event")
    }

    /// Nothing has come.
    pub(crate) fn is_quiet(&self) -> bool {
        self.told.try_recv().is_err()
    }

    /// The next one of this name and, if it has one, stream; others are passed over.
    pub(crate) fn until(&self, name: &str, id: Option<u128>) -> Fields {
        let end = Instant::now() + PATIENCE;
        loop {
            // Pings come for ever.
            assert!(Instant::now() < end, "no {name}");
            let (told, fields) = self.next();
            let uuid = id.map(|id| Value::Text(uuid::Uuid::from_u128(id).to_string()));
            if told == name && (uuid.is_none() || fields.get(&1) == uuid.as_ref()) {
                return fields;
            }
        }
    }

    /// The port of this stream's `stream_started`; what comes before it is passed over.
    pub(crate) fn started(&self, id: u128) -> SocketAddr {
        let fields = self.until("stream_started", Some(id));
        let Some(Value::Number(port)) = fields.get(&3) else { panic!("{fields:?}") };
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(*port).unwrap()))
    }
}

/// Writes all and closes.
pub(crate) fn write(at: SocketAddr, data: &[u8]) {
    TcpStream::connect(at).unwrap().write_all(data).unwrap();
}

/// Reads all and closes.
pub(crate) fn read(at: SocketAddr) -> Vec<u8> {
    let mut socket = TcpStream::connect(at).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut all = Vec::new();
    socket.read_to_end(&mut all).unwrap();
    all
}
